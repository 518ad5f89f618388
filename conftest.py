"""How pytest-codeblocks runs the blocks of the pages: alone, in an empty folder, all of them."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from pytest_codeblocks.plugin import TestBlock

from handwave_site.blocks import read_page
from handwave_site.pages import find_pages

ROOT = Path(__file__).parent

# Looked through for doctests, its program would draw pictures into the current folder.
collect_ignore = ["docs/assets"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to go on unless the blocks collected are exactly those that handwave_site finds."""
    collected = Counter(item.path for item in items if isinstance(item, TestBlock))
    for path in _pages(config):
        found = len(read_page(path).blocks)
        if collected[path.resolve()] != found:
            raise pytest.UsageError(
                f"{path}: pytest-codeblocks collected {collected[path.resolve()]} blocks,"
                f" handwave_site finds {found}; run python -m handwave_site run {path}"
            )


def _pages(config: pytest.Config) -> list[Path]:
    """List the pages asked for, whole ones only."""
    asked = [Path(argument) for argument in config.args if "::" not in argument]
    pages = [path for path in asked if path.suffix == ".md"]
    folders = [path for path in asked if path.is_dir() and any(path.rglob("*.md"))]
    return find_pages([*pages, *folders]) if pages or folders else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(
    item: pytest.Item,
) -> Generator[None, None, None]:
    """Give each block a state of its own, and failures their line and type."""
    if not isinstance(item, TestBlock):
        return (yield)
    try:
        with _own_state():
            return (yield)
    except (Exception, SystemExit) as error:
        raise RuntimeError(_describe(item, error)) from error


@contextlib.contextmanager
def _own_state() -> Iterator[None]:
    """Keep what a block changes from the next one."""
    import matplotlib as mpl  # noqa: PLC0415 - tests of other files need neither
    import torch  # noqa: PLC0415
    from matplotlib import pyplot  # noqa: PLC0415

    mpl.use("Agg")
    dtype, python_rng = torch.get_default_dtype(), random.getstate()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.chdir(folder),
            mpl.rc_context(),
            torch.random.fork_rng(devices=[]),
        ):
            yield
    finally:
        pyplot.close("all")
        torch.set_default_dtype(dtype)
        random.setstate(python_rng)


def _describe(item: TestBlock, error: BaseException) -> str:
    """Name page, line and type of what a block raised; keep a mismatch's own words."""
    cause = error.__context__ or error
    line = int(item.name.removeprefix("line "))
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if f.filename == "<string>"]
    if not frames and not isinstance(error, SystemExit):
        return str(error)
    line += (frames[-1].lineno or 0) if frames else 0
    return f"{item.path}:{line}: {''.join(traceback.format_exception_only(cause)).strip()}"


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Build the site strictly, as `make site` does, once for all workers of a run."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "site"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if build.returncode or "WARNING -" in build.stderr:
        shutil.rmtree(folder, ignore_errors=True)
    assert build.returncode == 0, build.stderr
    assert "WARNING -" not in build.stderr, build.stderr


@pytest.fixture(scope="session")
def drawn_figures() -> Path:
    """Bring the figures of all pages up to date; return their folder."""
    command = [sys.executable, "-m", "handwave_site", "run", "docs"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return ROOT / "docs" / "figures"
