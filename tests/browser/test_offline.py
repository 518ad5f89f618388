"""The copy to read from a folder: all of it works from file://, search too; nobody is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def offline_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"OFFLINE": "true"}
    build = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    return folder


def test_a_folder_is_read_searched_and_left_through_without_a_server(
    open_page: Any, offline_site: Path, complaints: list[str]
) -> None:
    page = open_page((offline_site / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.keyboard.type("kaiming")
    found = page.locator(".md-search-result__link[href*='12-defaults.html']").first
    found.wait_for()
    found.click()
    page.wait_for_url("**/12-defaults.html*")
    page.locator(".turn__link--next").click()
    page.wait_for_url("**/13-precision.html")
    assert page.locator("img.figure").first.evaluate("i => i.decode().then(() => i.naturalWidth)")
    assert not complaints


def test_an_examples_figures_are_there_too(offline_site: Path) -> None:
    page = (offline_site / "examples/why_sqrt_n.html").read_text(encoding="utf-8")
    assert 'src="why_sqrt_n-figure-1.svg"' in page
    assert (offline_site / "examples/why_sqrt_n-figure-1.svg").is_file()
