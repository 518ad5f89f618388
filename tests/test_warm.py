"""The warm parent: what it imports, what it says, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from handwave_site.runner import Limits, Ran, Runner


def run(code: str, **limits: object) -> Ran:
    found: list[Ran] = []
    with Runner(Limits(seconds=20, memory=1 << 30, **limits)) as runner:  # type: ignore[arg-type]
        runner.run([(1, code)], lambda _, ran: found.append(ran))
    return found[0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that the warm parent can import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_what_is_preloaded_is_there_already() -> None:
    look = "import sys\nprint('decimal' in sys.modules)"
    assert run(look, preload=("decimal",)).result.stdout == "True\n"
    assert run(look, preload=()).result.stdout == "False\n"


def test_a_module_that_is_not_installed_is_not_needed() -> None:
    assert run("print(1)", preload=("no_such_module.below", "decimal")).result.stdout == "1\n"


def test_a_module_that_prints_when_imported_disturbs_nothing(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (package / "loud.py").write_text("print('7\\n8')", encoding="utf-8")
    assert run("print(1)", preload=("loud",)).result.stdout == "1\n"


def test_a_module_that_fails_to_import_is_said_for_each_block(package: Path) -> None:
    (package / "broken.py").write_text("import no_such_module", encoding="utf-8")
    failure = run("print(1)", preload=("broken",)).result.failure
    assert failure is not None
    assert "run again, and look at its stderr" in failure


@pytest.mark.parametrize("fork", [True, False])
def test_the_working_folder_of_the_caller_is_not_imported_from(
    fork: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decimal.py").write_text("raise ValueError", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("import decimal", preload=("decimal",), fork=fork).result.failure is None


def test_killed_while_blocks_run_it_is_said_and_the_rest_run_in_another() -> None:
    found: dict[int, Ran] = {}
    with Runner(Limits(seconds=20, memory=1 << 30, preload=(), cores=1)) as runner:
        runner.start()
        assert runner._parent is not None
        threading.Timer(1.0, runner._parent.kill).start()
        begin = time.monotonic()
        runner.run([(5, "import time\ntime.sleep(15)"), (9, "print(1)")], found.__setitem__)
    assert time.monotonic() - begin < 10
    assert found[0].result.line == 5
    assert str(found[0].result.failure).startswith("the process that runs the blocks ended")
    assert found[1].result.stdout == "1\n"


def test_the_end_of_its_jobs_ends_it_and_what_runs() -> None:
    command = [sys.executable, "-P", "-m", "handwave_site.warm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        parent.stdin.close()
        assert parent.wait(timeout=10) == 0


def test_two_runners_stand_side_by_side_and_end_apart(tmp_path: Path) -> None:
    limits = Limits(seconds=20, memory=1 << 30, preload=())
    with Runner(limits) as one:
        one.start()
        with Runner(limits) as other:
            other.start()
            assert one._parent is not None
            assert other._parent is not None
            pid = other._parent.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        found: list[Ran] = []
        one.run([(1, "print(1)")], lambda _, ran: found.append(ran))
    assert found[0].result.stdout == "1\n"
