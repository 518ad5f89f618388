"""Examples become notebooks that build the same twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from handwave_site import notebooks, settings

SOURCE = '# %% [markdown]\n# # A study\n\n# %%\nx = 1\n\n# %% alt="a line"\nprint(x)\n'


@pytest.fixture
def project(tmp_path: Path) -> settings.Settings:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/study.py").write_text(SOURCE, encoding="utf-8")
    text = "plugins: [{handwave_site: {examples: examples}}]"
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    return settings.load(tmp_path / "mkdocs.yml")


def notebook(project: settings.Settings) -> dict[str, Any]:
    (uri,) = notebooks.bring_in(project)
    assert uri == "examples/study.ipynb"
    return json.loads((notebooks.folder(project) / uri).read_text(encoding="utf-8"))


def test_cell_ids_follow_from_positions(project: settings.Settings) -> None:
    cells = notebook(project)["cells"]
    assert [cell["id"] for cell in cells] == ["cell-0", "cell-1", "cell-2"]
    assert cells[2]["metadata"]["alt"] == "a line"


def test_an_unchanged_example_is_not_written_again(project: settings.Settings) -> None:
    notebook(project)
    path = notebooks.folder(project) / "examples/study.ipynb"
    before = path.stat().st_mtime_ns
    notebook(project)
    assert path.stat().st_mtime_ns == before
    (project.root / "examples/study.py").write_text(SOURCE + "y = 2\n", encoding="utf-8")
    assert "y = 2" in notebook(project)["cells"][2]["source"][-1]


def test_results_of_another_library_lie_elsewhere(
    project: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the kernel's, in a real build
    options: dict[str, Any] = {}
    folders = set()
    for key in ("a" * 64, "b" * 64):
        notebooks.prepare(options, project, key)
        folders.add(options["cache_dir"])
    assert len(folders) == 2


def test_without_a_folder_there_are_no_examples(tmp_path: Path) -> None:
    (tmp_path / "mkdocs.yml").write_text("site_name: x", encoding="utf-8")
    assert notebooks.bring_in(settings.load(tmp_path / "mkdocs.yml")) == []
