"""One block in one process: how its end is judged, at which line, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handwave_site.runner import Limits, Ran, Runner
from handwave_site.sandbox import Job, Result, load_job, write_line

Run = Callable[[str], Result]
LINE = 40  # of the page, where the block's fence stands


@pytest.fixture(scope="module")
def warm() -> Iterator[Runner]:
    with Runner(Limits(seconds=1.5, memory=1 << 30, preload=())) as runner:
        yield runner


@pytest.fixture
def run(warm: Runner) -> Run:
    def one(code: str) -> Result:
        found: list[Ran] = []
        warm.run([(LINE, code)], lambda _, ran: found.append(ran))
        return found[0].result

    return one


def test_a_block_that_ends_has_no_failure(run: Run) -> None:
    result = run("print('a')")
    assert (result.failure, result.stdout, result.files) == (None, "a\n", [])


def test_its_time_is_that_of_its_own_lines(run: Run) -> None:
    result = run("import time\ntime.sleep(0.3)")
    assert 0.3 <= result.seconds < 1
    assert result.cpu_seconds < 0.2
    busy = run("import time\nwhile time.process_time() < 0.3: pass")
    assert busy.cpu_seconds > 0.1


@pytest.mark.parametrize(
    ("code", "line", "failure"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("x = 1\n\n\n1 / 0", 4, "ZeroDivisionError: division by zero"),
        ("import json\njson.loads('')", 2, "json.decoder.JSONDecodeError: Expecting value"),
        ("def f():\n    raise KeyError('k')\n\nf()", 2, "KeyError: 'k'"),
        ("x = 1\ny = (", 2, "SyntaxError: '(' was never closed"),
        ("exec('1 +')", 1, "SyntaxError: invalid syntax"),
        ("x = 1\nimport sys\nsys.exit(3)", 3, "the block called sys.exit(3)"),
        ("def f():\n    raise SystemExit('bye')\nf()", 2, "the block called sys.exit('bye')"),
        ("x = 1\nwhile True:\n    pass", 3, "the block ran longer than 1.5 s and was ended"),
        ("import time\n\ntime.sleep(60)", 3, "the block ran longer than 1.5 s and was ended"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", 0, "longer than 1.5 s"),
        ("import ctypes\n\nctypes.string_at(0)", 3, "the block was killed by SIGSEGV before"),
        ("x = 1\nx = bytearray(2 << 30)", 2, "MemoryError (the block is over its memory limit)"),
        ("import warnings\n\nwarnings.warn('old')", 3, "'UserWarning: old'; mend its cause"),
    ],
)
def test_a_failure_names_its_line_and_its_type(
    run: Run, code: str, line: int, failure: str
) -> None:
    result = run(code)
    assert result.failure is not None
    assert failure in result.failure
    where = result.line - LINE
    # A loop may be seen at either of its lines; a stopped process cannot say where it stands.
    assert where in ({line, line - 1} if "while" in code else {line}), result


def test_a_thread_that_raises_fails_its_block(run: Run) -> None:
    result = run(
        "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()"
    )
    assert result.failure is not None
    assert "ZeroDivisionError: division by zero" in result.failure


def test_a_thread_that_ends_after_the_last_line_is_waited_for(run: Run) -> None:
    code = "import threading\nthreading.Timer(0.3, print, ['late']).start()\nprint('early')"
    result = run(code)
    assert (result.failure, result.stdout) == (None, "early\nlate\n")


def test_exit_handlers_run_and_may_print(run: Run) -> None:
    result = run("import atexit\natexit.register(print, 'bye')")
    assert (result.failure, result.stdout) == (None, "bye\n")


def test_a_child_that_ends_in_time_is_no_failure(run: Run) -> None:
    result = run(
        "import subprocess\nprint(subprocess.run(['echo', 'a'], capture_output=True).stdout)"
    )
    assert (result.failure, result.stdout) == (None, "b'a\\n'\n")


def test_a_forked_child_has_no_say_in_how_its_block_ended(run: Run) -> None:
    result = run("import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n    os._exit(0)")
    assert result.failure is not None
    assert "before control came back after its last line" in result.failure


def test_what_is_printed_is_kept_byte_for_byte(run: Run) -> None:
    result = run("print('√n − ½\\t', end='\\n\\n')\nprint(' a ')")
    assert result.stdout == "√n − ½\t\n\n a \n"


def test_output_without_limit_fails_the_block_instead_of_filling_the_disk(run: Run) -> None:
    result = run("while True:\n    print('x' * 10_000_000)")
    assert result.failure is not None
    assert "File too large" in result.failure or "longer than" in result.failure


def test_files_in_folders_and_links_are_listed(run: Run) -> None:
    result = run("import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.symlink('x', 'd')")
    assert set(result.files) == {"a/b/c", "d"}


def test_nothing_can_be_read_from_stdin(run: Run) -> None:
    assert run("import sys\nprint(repr(sys.stdin.read()))").stdout == "''\n"


def test_a_job_survives_its_way_through_a_line(tmp_path: Path) -> None:
    job = Job(3, str(tmp_path), 7, "print('√\\n')\n", 1.5, 1 << 30)
    line: Any = write_line(job)
    assert line.count("\n") == 1
    assert load_job(line) == job
