"""Run blocks in parallel, each in a fresh process forked from one warm parent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from handwave_site.sandbox import Job, Result, write_line

_PATIENCE_S = 30.0  # beyond a block's time limit, before the warm parent counts as lost


@dataclass(frozen=True)
class Limits:
    """How blocks run: seconds and bytes for each, and what the warm parent imports."""

    seconds: float = 60.0
    memory: int = 4 << 30
    preload: tuple[str, ...] = ("torch", "matplotlib.pyplot")
    cores: int = field(default_factory=lambda: len(_usable_cores()))
    environment: tuple[tuple[str, str], ...] = ()
    fork: bool = True


@dataclass(frozen=True)
class Ran:
    """A block that ran: how it ended, and the bytes of each file that it left."""

    result: Result
    files: dict[str, bytes]


class Runner:
    """A warm parent and the blocks that it forks; `close` it, or use it in a `with`."""

    def __init__(self, limits: Limits) -> None:
        """Start nothing yet: the warm parent starts with the first block, or with `start`."""
        self.limits = limits
        self._parent: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the warm parent without waiting until it is warm."""
        if self._parent is not None and self._parent.poll() is not None:
            self.close()  # it died
        if self._parent is None:
            flags = [] if self.limits.fork else ["--no-fork"]
            self._parent = subprocess.Popen(
                [sys.executable, "-P", "-m", "handwave_site.warm", *flags, *self.limits.preload],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(self.limits),
                start_new_session=True,  # Ctrl-C reaches the caller alone, which then ends it
            )

    def close(self) -> None:
        """End the warm parent and every process below it."""
        parent, self._parent = self._parent, None
        if parent is None:
            return
        for stream in (parent.stdin, parent.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()  # it reads the end of its jobs, ends what runs, and exits
        try:
            parent.wait(timeout=10)
        except subprocess.TimeoutExpired:
            parent.kill()
            parent.wait()

    def run(self, blocks: Sequence[tuple[int, str]], done: Callable[[int, Ran], None]) -> None:
        """Run blocks, as many side by side as there are cores.

        Args:
            blocks: for each block the Markdown line of its fence, and its code.
            done: called with a block's index and what became of it, as soon as it ended.
        """
        folder = Path(tempfile.mkdtemp(prefix="blocks-"))
        try:
            self._run(folder, blocks, done)
        except BaseException:
            self.close()  # also on Ctrl-C: no block outlives its caller
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(
        self, folder: Path, blocks: Sequence[tuple[int, str]], done: Callable[[int, Ran], None]
    ) -> None:
        waiting = [_job(folder, i, block, self.limits) for i, block in enumerate(blocks)]
        waiting.reverse()
        running: dict[int, Job] = {}
        while waiting or running:
            self.start()
            while waiting and len(running) < self.limits.cores:
                job = waiting.pop()
                running[job.number] = job
                self._send(job)
            for number, ran in self._ended(running):
                shutil.rmtree(running.pop(number).folder, ignore_errors=True)
                done(number, ran)

    def _send(self, job: Job) -> None:
        assert self._parent is not None
        assert self._parent.stdin is not None
        try:
            self._parent.stdin.write(write_line(job).encode())
            self._parent.stdin.flush()
        except BrokenPipeError:
            return  # the end of its answers says the same, and is handled

    def _ended(self, running: dict[int, Job]) -> list[tuple[int, Ran]]:
        """Wait until at least one block has ended."""
        assert self._parent is not None
        assert self._parent.stdout is not None
        stream = self._parent.stdout.fileno()
        readable, _, _ = select.select([stream], [], [], self.limits.seconds + _PATIENCE_S)
        answer = os.read(stream, 65536) if readable else b""
        if not answer:
            self.close()
            return [(number, _lost(job)) for number, job in running.items()]
        while not answer.endswith(b"\n"):
            answer += os.read(stream, 65536)
        return [(n, _load(running[n])) for n in map(int, answer.split())]


def _job(folder: Path, number: int, block: tuple[int, str], limits: Limits) -> Job:
    line, code = block
    own = folder / str(number)
    job = Job(number, str(own), line, code, limits.seconds, limits.memory)
    job.work.mkdir(parents=True)
    return job


def _load(job: Job) -> Ran:
    result = Result(**json.loads(job.path("result.json").read_text(encoding="utf-8")))
    files = {name: _bytes(job.work / name) for name in result.files}
    return Ran(result, files)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else b""


def _lost(job: Job) -> Ran:
    message = "the process that runs the blocks ended or hung; run again, and look at its stderr"
    return Ran(Result(failure=message, line=job.line), {})


def _environment(limits: Limits) -> dict[str, str]:
    """Make the warm parent's environment: one thread a block, no screen, no stray options."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ}
    environment.update(MPLBACKEND="Agg", PYTHONUTF8="1", **dict(limits.environment))
    for name in ("PYTHONWARNINGS", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONOPTIMIZE"):
        environment.pop(name, None)
    return environment


def _usable_cores() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
