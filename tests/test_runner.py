"""Blocks run in processes of their own, side by side, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handwave_site.runner import Limits, Ran, Runner

Run = Callable[..., list[Ran]]


@pytest.fixture(scope="module", params=[True, False], ids=["fork", "spawn"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    limits = Limits(seconds=20, memory=1 << 30, preload=(), fork=request.param)
    with Runner(limits) as warm:

        def all_of(*codes: str) -> list[Ran]:
            found: dict[int, Ran] = {}
            warm.run([(10, code) for code in codes], found.__setitem__)
            return [found[i] for i in range(len(codes))]

        yield all_of


def test_a_block_is_the_main_program(run: Run) -> None:
    (ran,) = run("import sys\nprint(__name__, sys.modules['__main__'].__file__ == __file__)")
    assert ran.result.stdout == "__main__ True\n"


def test_a_tracebacks_lines_are_those_of_the_page(run: Run) -> None:
    (ran,) = run("x = 1\n\ndef f():\n    return x / 0\n\nf()")
    assert (ran.result.line, ran.result.failure) == (14, "ZeroDivisionError: division by zero")


def test_the_folder_home_and_tmpdir_are_one_and_empty(run: Run) -> None:
    code = "import os, pathlib, tempfile\nhere = os.getcwd()\nprint(os.listdir())\n"
    code += "print(here == str(pathlib.Path.home()) == tempfile.gettempdir())"
    (ran,) = run(code)
    assert ran.result.stdout == "[]\nTrue\n"


def test_no_state_passes_from_block_to_block(run: Run) -> None:
    change = "import builtins, os\nbuiltins.leak = 1\nos.environ['LEAK'] = '1'"
    look = "import builtins, os\nprint(hasattr(builtins, 'leak'), 'LEAK' in os.environ)"
    assert run(change, look)[1].result.stdout == "False False\n"
    assert run(look)[0].result.stdout == "False False\n"


def test_annotations_mean_what_they_mean_elsewhere(run: Run) -> None:
    (ran,) = run("def f(x: int): ...\nprint(f.__annotations__)")
    assert ran.result.stdout == "{'x': <class 'int'>}\n"


def test_torch_runs_on_one_thread_and_backward(run: Run) -> None:
    code = "import torch\nx = torch.ones(300, 300, requires_grad=True)\n"
    code += "(x @ x).sum().backward()\nprint(torch.get_num_threads(), x.grad[0, 0].item())"
    assert [ran.result.stdout for ran in run(code, code)] == ["1 600.0\n"] * 2


def test_the_end_of_one_block_ends_no_other(run: Run) -> None:
    short, long = run("print(1)", "import time\ntime.sleep(2)\nprint(2)")
    assert (short.result.failure, long.result.failure) == (None, None)
    assert (short.result.stdout, long.result.stdout) == ("1\n", "2\n")


def test_files_are_listed_in_the_order_of_their_writing(run: Run) -> None:
    code = "import time\nfor name in 'bac':\n    open(name, 'w').write(name)\n    time.sleep(0.02)"
    (ran,) = run(code)
    assert ran.result.files == ["b", "a", "c"]
    assert ran.files == {"b": b"b", "a": b"a", "c": b"c"}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import atexit\natexit._run_exitfuncs()\nraise ValueError", "before control came back"),
        ("import os\nos._exit = print\nraise ValueError('x')", "ValueError: x"),
        ("import os\nos.kill(os.getpid(), 40)", "signal 40"),
        ("import os, shutil\nshutil.rmtree(os.path.dirname(__file__))\n1 / 0", "before control"),
        ("import warnings\nwarnings.warn('old')", "writes to stderr, 'UserWarning: old'"),
        ("input()", "EOFError"),
    ],
)
def test_a_block_that_ends_otherwise_has_failed(run: Run, code: str, says: str) -> None:
    (ran,) = run(code)
    assert ran.result.failure is not None
    assert says in ran.result.failure


@pytest.mark.parametrize("fork", [True, False], ids=["fork", "spawn"])
def test_a_block_that_kills_its_watcher_is_answered_for(fork: bool) -> None:
    found: list[Ran] = []
    code = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(60)"
    with Runner(Limits(seconds=20, preload=(), fork=fork)) as warm:
        begin = time.monotonic()
        warm.run([(1, code), (2, "print(1)")], lambda _, ran: found.append(ran))
    assert time.monotonic() - begin < 15
    assert sorted(str(ran.result.failure) for ran in found) == [
        "None",
        "the block ended the process that watches it; let it alone",
    ]


def test_blocks_run_side_by_side() -> None:
    limits = Limits(seconds=20, preload=(), cores=4)
    with Runner(limits) as warm:
        warm.run([(1, "")], lambda *_: None)
        begin = time.monotonic()
        warm.run([(1, "import time\ntime.sleep(1)")] * 4, lambda *_: None)
    assert time.monotonic() - begin < 3.5


def test_a_dead_warm_parent_is_said_and_started_anew() -> None:
    found: list[Ran] = []
    with Runner(Limits(seconds=20, preload=())) as warm:
        warm.start()
        assert warm._parent is not None
        warm._parent.kill()
        warm.run([(1, "print(1)")], lambda _, ran: found.append(ran))
        warm.run([(1, "print(1)")], lambda _, ran: found.append(ran))
    assert found[-1].result.stdout == "1\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_caller(site: Any, how: signal.Signals) -> None:
    site.page("# A\n\n```python\nimport time\ntime.sleep(60)\n```\n")
    process: subprocess.Popen[str] = site.start("handwave_site", "run", "docs")
    deadline = time.monotonic() + 30
    while len(site.processes()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)  # the warm parent, the supervisor, the block
    process.send_signal(how)
    process.wait(timeout=20)
    assert site.settle() == []
    process.communicate()
    if how is signal.SIGINT:
        assert process.returncode == 130
