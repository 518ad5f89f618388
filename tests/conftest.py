"""Fixtures that several test files share: a site of one's own, small and real."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner

PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><path fill="#123456"/></svg>'
)
MARKER = "<!--pytest-codeblocks:expected-output-->"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same numbers whichever tests a worker has run before."""
    torch.manual_seed(0)


class Site:
    """A folder with mkdocs.yml and docs/, and what a person would do with it at the prompt."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.docs = root / "docs"
        self.config = root / "mkdocs.yml"
        self.options = {"time_limit": 20, "memory_limit": 1, "preload": []} | options
        self.docs.mkdir(parents=True)
        self.configure()

    def configure(self, theme: str = "mkdocs", plugin: bool = True, **further: Any) -> None:
        """Write mkdocs.yml; JSON is YAML."""
        extensions = ["admonition", "attr_list", "pymdownx.details", "pymdownx.superfences"]
        content = {
            "site_name": "A site",
            "theme": {"name": theme},
            "markdown_extensions": [
                *extensions,
                {"pymdownx.arithmatex": {"generic": True}},
            ],
            "plugins": [{"handwave_site": self.options}] if plugin else [],
        }
        self.config.write_text(json.dumps(content | further), encoding="utf-8")

    def page(self, text: str, name: str = "index.md") -> Path:
        """Write a page as it stands, whatever its line ends are."""
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """`python -m handwave_site …`, in this process: status, stdout, stderr."""
        from handwave_site.__main__ import main

        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = main(list(arguments))
        return status, out.getvalue(), err.getvalue()

    def run(self, *paths: str) -> tuple[int, str]:
        """`python -m handwave_site run docs`: status, stderr."""
        status, _, err = self.command("run", *(paths or ("docs",)))
        return status, err

    def build(self) -> tuple[int, str]:
        """`mkdocs build --strict`, in this process: status, what it says."""
        from mkdocs.__main__ import cli

        logger = logging.getLogger("mkdocs")
        handlers = list(logger.handlers)
        try:
            with contextlib.chdir(self.root), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MkDocs and its themes have some of their own
                result = CliRunner().invoke(cli, ["build", "--strict"])
        finally:
            logger.handlers[:] = handlers
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def start(self, *command: str, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a program of this Python in the site's folder."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # A shell's background job ignores Ctrl-C, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def processes(self) -> list[psutil.Process]:
        """Every process that runs blocks of this site, or ever came from one that does.

        A child inherits its environment, whatever session or parent it has moved to.
        """
        mine = f"{self.root}{os.sep}"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                dead = process.status() == psutil.STATUS_ZOMBIE
                if not dead and process.environ().get("MPLCONFIGDIR", "").startswith(mine):
                    found.append(process)
        return found

    def settle(self, patience: float = 10) -> list[psutil.Process]:
        """Wait until no process is left; return those that stay."""
        end = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def kept(self) -> dict[str, dict[str, Any]]:
        """What the cache holds, by what the block printed."""
        entries = (json.loads(p.read_text()) for p in self.root.glob(".cache/*/blocks/*/*.json"))
        return {entry["stdout"]: entry for entry in entries}

    def unfinished(self) -> list[Path]:
        """Find half-written files: those that a page, a cache or a figure never is."""
        known = (".md", ".json", ".svg", ".yml", ".html", ".py")
        places = [self.docs, self.root / ".cache"]
        return [
            path
            for place in places
            for path in place.rglob("*")
            if path.is_file()
            and path.parent.name != "matplotlib"  # its own files
            and (path.suffix not in known or path.name.startswith("."))
        ]


@pytest.fixture
def site(tmp_path: Path, private_temporary_folder: Path) -> Site:
    """An empty site whose blocks import nothing beforehand, so that it starts at once."""
    return Site(tmp_path / "site")


@pytest.fixture
def private_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this test alone, so that what is left behind is seen."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A maker of sites, for what a whole module shares."""

    def make(**options: Any) -> Site:
        return Site(tmp_path_factory.mktemp("shared") / "site", **options)

    return make


@pytest.fixture(scope="module")
def runner() -> Iterator[Any]:
    """A warm parent for a whole module; its blocks import what they need themselves."""
    from handwave_site.runner import Limits, Runner

    with Runner(Limits(seconds=20, memory=1 << 30, preload=())) as warm:
        yield warm


@pytest.fixture
def problems_in() -> Any:
    """A reader of what a command says: its (page, line, message) triples."""

    def read(text: str) -> list[tuple[str, int, str]]:
        found = re.findall(r"^(?:\S+ +- +)?(\S+\.md):(\d+): (.*)$", text, re.MULTILINE)
        return [(page, int(line), message) for page, line, message in found]

    return read


@pytest.fixture(scope="session")
def picture() -> str:
    """A picture that needs no matplotlib."""
    return PICTURE
