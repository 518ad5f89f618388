"""The warm parent: it has imported the slow modules once, and forks a child for each block.

It is a program of its own (`python -P -m handwave_site.warm torch matplotlib.pyplot`), never the
caller: it computes nothing, since a child forked after a matrix product hangs in its backward
pass. It reads jobs as lines of JSON and answers each with its number, once the result lies in
the job's folder.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from handwave_site.sandbox import (
    Job,
    Result,
    adopt_orphans,
    die_with_parent,
    end_descendants,
    load_job,
    run_block,
    supervise,
    write_line,
)


def main(arguments: list[str]) -> None:
    """Answer jobs until there are no more, or until the caller is gone."""
    if "--watch" in arguments:  # a fresh process for one block's supervisor
        _watch(load_job(sys.stdin.readline()))
    if "--block" in arguments:  # and one for the block
        die_with_parent("SIGKILL")
        run_block(load_job(sys.stdin.readline()))
    answers, parent = _claim_stdout(), os.getpid()
    for module in arguments:
        _import(module)
    sys.stdout.flush()  # or each child would hold what a module printed
    gc.collect()
    gc.freeze()  # shared pages stay shared in the children
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    start = _spawn if "--no-fork" in arguments or not hasattr(os, "fork") else _fork
    if start is _fork:
        adopt_orphans()
        signal.signal(signal.SIGCHLD, lambda *_: _reap(answers))
    try:
        while line := sys.stdin.readline():
            start(load_job(line), answers)
    finally:
        if os.getpid() == parent:  # a block that ends unwinds through here as well
            _end_supervisors()


def _claim_stdout() -> int:
    """Keep stdout for answers alone: whatever else prints goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _import(module: str) -> None:
    if not module.startswith("-"):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise  # a project without torch or matplotlib has nothing to warm


_supervisors: dict[int, Job] = {}


def _fork(job: Job, answers: int) -> None:
    """Fork a supervisor, which forks the block: whatever the block orphans, it adopts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # until it is noted
    pid = os.fork()
    if pid:
        _supervisors[pid] = job
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    _begin_to_watch()
    child = os.fork()
    if child == 0:
        die_with_parent("SIGKILL")
        os.close(answers)
        run_block(job)
    _judge(job, child)
    _answer(job, answers)
    os._exit(0)


def _spawn(job: Job, answers: int) -> None:
    """Start a fresh supervisor, and it a fresh block, where the platform cannot fork."""
    watcher = _start("--watch", job)
    threading.Thread(target=_wait, args=(watcher, job, answers), daemon=True).start()


def _wait(watcher: subprocess.Popen[str], job: Job, answers: int) -> None:
    if watcher.wait():
        _write_killed(job)
    _answer(job, answers)


def _watch(job: Job) -> None:
    """Be the supervisor of one block: all that is below this process is the block's."""
    _begin_to_watch()
    _judge(job, _start("--block", job).pid)
    os._exit(0)


def _start(role: str, job: Job) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "handwave_site.warm", role]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(write_line(job))
    process.stdin.close()
    return process


def _begin_to_watch() -> None:
    signal.signal(signal.SIGTERM, _abandon)
    die_with_parent("SIGTERM")
    adopt_orphans()


def _judge(job: Job, pid: int) -> None:
    try:
        result = supervise(job, pid)
    except Exception as error:
        end_descendants()
        result = Result(failure=f"the block could not be judged: {error!r}", line=job.line)
    _write(job, result)


def _write_killed(job: Job) -> None:
    message = "the block ended the process that watches it; let it alone"
    _write(job, Result(failure=message, line=job.line))


def _write(job: Job, result: Result) -> None:
    Path(job.folder).mkdir(parents=True, exist_ok=True)  # the block may have deleted it
    job.path("result.json").write_text(write_line(result), encoding="utf-8")


def _answer(job: Job, answers: int) -> None:
    os.write(answers, f"{job.number}\n".encode())


def _abandon(*_: object) -> None:
    end_descendants()
    os._exit(1)


def _reap(answers: int) -> None:
    """Answer for supervisors that ended without an answer of their own."""
    for pid, job in list(_supervisors.items()):
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # this very handler, called once more meanwhile, had it
        if ended and _supervisors.pop(pid, None) and status:
            _write_killed(job)
            _answer(job, answers)


def _end_supervisors() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in _supervisors:
        try:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue
    end_descendants()


if __name__ == "__main__":
    main(sys.argv[1:])
