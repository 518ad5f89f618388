"""One block in one process of its own: run it, watch it, end it, say what happened.

Two sides. The *block's* side (`run_block`) runs the code in an empty folder, under limits, and
writes down how it ended. The *supervisor's* side (`supervise`) waits for it, ends whatever it
left running, and judges: success means that control came back after the block's last line.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import psutil

try:
    import resource
except ImportError:  # Windows: no limit but time
    resource = None

_GRACE_S = 0.5  # for helpers that end by themselves when their pipe closes
_OUTPUT_LIMIT = 64 << 20  # bytes that a block may write to one file, its output included


@dataclass(frozen=True)
class Job:
    """A block to run: `folder` is its own; `line` is the Markdown line of its fence."""

    number: int
    folder: str
    line: int
    code: str
    time_limit: float
    memory_limit: int

    @property
    def script(self) -> Path:
        """The real file that is run, so that tracebacks and `inspect` show its source."""
        return Path(self.folder, "block.py")

    @property
    def work(self) -> Path:
        """The block's working directory, HOME and TMPDIR, empty when it starts."""
        return Path(self.folder, "work")

    def path(self, name: str) -> Path:
        """A file of the bookkeeping, outside the block's working directory."""
        return Path(self.folder, name)


@dataclass
class Result:
    """What a block did: its output, the files that it left (oldest first), or why it failed.

    `line` is the Markdown line of the failure.
    `seconds` is wall time from its first line to its last, `cpu_seconds` the processor time of
    the block itself; both exclude the start of its process.
    """

    stdout: str = ""
    files: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    failure: str | None = None
    line: int = 0


# ---- the block's side: everything below runs in the process that the block may ruin


class _Ending:
    """How the block ended, written at the very end of its process and only by itself."""

    job: Job | None = None
    pid = 0
    returned = False
    leave = staticmethod(os._exit)  # whatever the block makes of os._exit
    times: ClassVar[dict[str, float]] = {}


def _write_ending(failure: str | None = None, line: int = 0) -> None:
    job = _Ending.job
    if job is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if os.getpid() == _Ending.pid:  # a process that the block forked has no say
        ending = {"failure": failure, "line": line, "returned": _Ending.returned}
        ending.update(_Ending.times)
        job.path("ending.json").write_text(json.dumps(ending), encoding="utf-8")
    _Ending.job = None
    _Ending.leave(0)


def run_block(job: Job) -> None:
    """Run a block as `__main__` in this very process; the process is spent afterwards.

    The ending is written by an exit handler that was registered before any of the block's own
    (handlers run last in, first out): a block that ends its process early never reaches it.
    """
    _Ending.job, _Ending.pid = job, os.getpid()
    _enter(job)
    try:
        _execute(job)
    except SystemExit as error:
        code = "" if error.code is None else repr(error.code)
        message = f"the block called sys.exit({code}); let it run on to its last line"
        _write_ending(message, _line_of(error, job))
    except BaseException as error:
        _write_ending(_describe(error), _line_of(error, job))
    sys.exit(0)


def _enter(job: Job) -> None:
    """Make this process the block's: session, folder, streams, limits."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(job.work)
    os.environ.update(HOME=str(job.work), TMPDIR=str(job.work))
    tempfile.tempdir = None
    _redirect(job)
    _limit(job)


def _redirect(job: Job) -> None:
    streams = ((os.devnull, os.O_RDONLY), (job.path("stdout"), os.O_WRONLY | os.O_CREAT))
    for target, (path, flags) in enumerate((*streams, (job.path("stderr"), streams[1][1]))):
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", newline="\n", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False
    )


def _limit(job: Job) -> None:
    """Limit memory, file size and time; leave a trace of where a crash or a loop stood."""
    trace = os.open(job.path("trace"), os.O_WRONLY | os.O_CREAT, 0o600)
    faulthandler.enable(trace)
    faulthandler.dump_traceback_later(job.time_limit, file=trace)
    if resource is None:
        return
    memory = psutil.Process().memory_info().vms + job.memory_limit
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, _OUTPUT_LIMIT)):
        hard = resource.getrlimit(what)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _execute(job: Job) -> None:
    # Blank lines above the code make the traceback's lines those of the Markdown page.
    job.script.write_text("\n" * job.line + job.code, encoding="utf-8")
    main = ModuleType("__main__")
    main.__file__ = str(job.script)
    sys.modules["__main__"] = main
    sys.argv = [str(job.script)]
    source = job.script.read_text(encoding="utf-8")
    code = compile(source, str(job.script), "exec", dont_inherit=True)
    begin, cpu = time.perf_counter(), time.process_time()
    exec(code, main.__dict__)
    _Ending.times["seconds"] = time.perf_counter() - begin
    _Ending.times["cpu_seconds"] = time.process_time() - cpu
    _Ending.returned = True


def _line_of(error: BaseException, job: Job) -> int:
    """Find the block's line that raised: the innermost of its frames."""
    if isinstance(error, SyntaxError) and error.filename == str(job.script):
        return error.lineno or job.line
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(job.script)]
    return (lines[-1] if lines else None) or job.line


def _describe(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, MemoryError) or re.search("(can't|annot) allocate memory", text):
        text += " (the block is over its memory limit)"
    return text if not isinstance(error, SyntaxError) else text.split("\n")[-1]


atexit.register(_write_ending)


# ---- the supervisor's side


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process, so that none escapes (Linux)."""
    if sys.platform == "linux":
        pr_set_child_subreaper = 36
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def die_with_parent(how: str) -> None:
    """Ask for the signal of this name when the parent of this process ends (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.Signals[how], 0, 0, 0)


def supervise(job: Job, pid: int) -> Result:
    """Wait for a block's process, end all that it left, and judge it.

    Args:
        job: the block.
        pid: its process, a child of this one.
    """
    try:
        code = psutil.Process(pid).wait(timeout=job.time_limit + _GRACE_S)
        timed_out = False
    except psutil.TimeoutExpired:
        code, timed_out = None, True
    except psutil.NoSuchProcess:
        code, timed_out = None, False
    left = _descendants(pid, _GRACE_S) if not timed_out else []
    end_descendants()
    return _judge(job, code, timed_out, left)


def _below(but: int | None = None) -> list[psutil.Process]:
    """List every process below this one, but one.

    Asked twice before it says none: one that forks and ends in the middle of a look at all
    processes hides its child from that look.
    """
    for _ in range(2):
        found = [c for c in psutil.Process().children(recursive=True) if c.pid != but]
        if found:
            return found
    return []


def _descendants(pid: int, patience: float) -> list[str]:
    """Name the processes below this one that do not end by themselves, their own children too."""
    deadline = time.monotonic() + patience
    while alive := _below(pid):
        if time.monotonic() >= deadline:
            return [process.name() for process in alive if process.is_running()]
        psutil.wait_procs(alive, timeout=max(deadline - time.monotonic(), 0))
    return []


def end_descendants() -> None:
    """Kill every process below this one, until none is left."""
    while children := _below():
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=1)


def _judge(job: Job, code: int | None, timed_out: bool, left: list[str]) -> Result:
    result = Result(stdout=_read(job.path("stdout")), files=_files(job.work), line=job.line)
    ending = json.loads(_read(job.path("ending.json")) or "{}")
    returned = ending.pop("returned", False)
    vars(result).update(ending)
    result.line = result.line or job.line
    if timed_out:
        result.failure = f"the block ran longer than {job.time_limit:g} s and was ended"
        result.line = _traced_line(job)
        result.seconds = job.time_limit
    elif not (returned or result.failure):
        result.failure = f"the block {_ended(code)} before control came back after its last line"
        result.line = _traced_line(job)
    elif left and not result.failure:
        result.failure = f"the block left a process running ({', '.join(left)}); wait for its end"
    elif not result.failure:
        _judge_stderr(job, result)
    return result


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        known = {int(number): number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        hint = ", as when memory runs out," if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended its process with status {code}"


def _judge_stderr(job: Job, result: Result) -> None:
    stderr = _read(job.path("stderr")).strip()
    if not stderr:
        return
    place = re.search(re.escape(str(job.script)) + r":(\d+): (.*)", stderr)
    result.line = int(place[1]) if place else job.line
    message = place[2] if place else stderr.split("\n")[-1]
    result.failure = f"the block writes to stderr, {message!r}; mend its cause"


def _traced_line(job: Job) -> int:
    lines = re.findall(re.escape(f'"{job.script}"') + r", line (\d+)", _read(job.path("trace")))
    return int(lines[0]) if lines else job.line


def _files(folder: Path) -> list[str]:
    """List what lies in a folder, in the order in which it was written."""
    found = [path for path in folder.rglob("*") if not path.is_dir()]
    found.sort(key=lambda path: (path.lstat().st_mtime_ns, path.as_posix()))
    return [path.relative_to(folder).as_posix() for path in found]


def _read(path: Path) -> str:
    if not path.exists():
        return ""
    return path.read_bytes().decode("utf-8", errors="backslashreplace")


def load_job(line: str) -> Job:
    """Read a job from a line of JSON."""
    return Job(**json.loads(line))


def write_line(value: Job | Result) -> str:
    """Write a job or a result as one line of JSON."""
    return json.dumps(asdict(value)) + "\n"
