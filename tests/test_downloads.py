"""A page as a notebook: its words, its blocks, what they gave; and it runs in a plain kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lxml import html
from nbclient import NotebookClient

from handwave_site.blocks import read_page
from handwave_site.cache import Entry
from handwave_site.downloads import notebook

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if read_page(path).blocks)

TEXT = """\
---
title: A page
---

# A page

!!! question "Why?"
    Guess *12.5*{.measured} first; see [two](02-two.md#there).

    - a point

```python
import torch
print(1)
```

<!--pytest-codeblocks:expected-output-->
```text
1
```

Between {.measured} lines: [out](https://example.org/).

```console
make  {.kept}
```

??? success "Answer"
    Before.

    ```python
    import numpy as np
    ```

    ![A line.](figures/index/line.svg)

    After.

The end.
"""


def made(text: str, tmp_path: Path, entries: list[Entry]) -> Any:
    path = tmp_path / "index.md"
    path.write_text(text, encoding="utf-8")
    content = notebook(read_page(path), entries, tmp_path / "cache", lambda uri: f"/at/{uri}")
    return nbformat.reads(content.decode(), as_version=4)


@pytest.fixture
def cells(tmp_path: Path) -> list[Any]:
    entries = [Entry("1\n", {}, 0, 0), Entry("", {"line.svg": "<svg/>"}, 0, 0)]
    return made(TEXT, tmp_path, entries).cells


def test_a_notebook_says_what_its_cells_import(cells: list[Any]) -> None:
    assert cells[0].source.endswith("They import: numpy, torch.*")


def test_words_leave_their_boxes_and_lose_their_marks(cells: list[Any]) -> None:
    assert cells[1].source == (
        "# A page\n\n**Why?**\n\nGuess *12.5* first; see [two](/at/02-two.md#there).\n\n- a point"
    )
    assert cells[3].source == (
        "Between  lines: [out](https://example.org/).\n\n"
        "```console\nmake  {.kept}\n```\n\n**Answer**\n\nBefore."
    )
    assert cells[5].source == "After.\n\nThe end."


def test_a_block_keeps_what_it_printed_and_drew(cells: list[Any]) -> None:
    assert cells[2].source == "import torch\nprint(1)"
    assert cells[2].outputs == [{"output_type": "stream", "name": "stdout", "text": "1\n"}]
    assert cells[4].source == "import numpy as np"
    (drawn,) = cells[4].outputs
    assert drawn["data"] == {"image/svg+xml": "<svg/>", "text/plain": "A line."}


def test_a_figure_that_pyplot_does_not_know_of_is_shown(tmp_path: Path) -> None:
    drawing = "import torch\nfig = torch.draw()\nfig.savefig('line.svg')\n"
    text = TEXT.replace("import numpy as np\n", drawing.replace("\n", "\n    ").rstrip(" "))
    entries = [Entry("1\n", {}, 0, 0), Entry("", {"line.svg": "<svg/>"}, 0, 0)]
    assert made(text, tmp_path, entries).cells[4].source == drawing + "fig"


def test_a_page_makes_the_same_notebook_twice(tmp_path: Path) -> None:
    entries = [Entry("1\n", {}, 0, 0), Entry("", {"line.svg": "<svg/>"}, 0, 0)]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    assert made(TEXT, tmp_path / "one", entries) == made(TEXT, tmp_path / "two", entries)


def test_other_results_make_another_notebook(tmp_path: Path) -> None:
    for printed in ("1\n", "2\n"):
        entries = [Entry(printed, {}, 0, 0), Entry("", {"line.svg": "<svg/>"}, 0, 0)]
        assert made(TEXT, tmp_path, entries).cells[2].outputs[0]["text"] == printed


def test_every_page_with_blocks_links_its_notebook(built_site: Path) -> None:
    assert "06-fix" in PAGES
    for stem in PAGES:
        folder = built_site / ("" if stem == "index" else stem)
        page = html.document_fromstring((folder / "index.html").read_bytes())
        assert page.xpath("//article//a[@download]/@href") == [f"{stem}.ipynb"]
        nbformat.validate(json.loads((folder / f"{stem}.ipynb").read_text(encoding="utf-8")))


@pytest.mark.parametrize("stem", PAGES)
def test_a_notebook_runs_in_a_plain_kernel_and_prints_the_same(
    stem: str, built_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    source = built_site / ("" if stem == "index" else stem) / f"{stem}.ipynb"
    ours, theirs = (nbformat.read(source, as_version=4) for _ in range(2))
    for cell in theirs.cells:
        cell.pop("outputs", None)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(theirs, resources=resources, timeout=300, shutdown_kernel="immediate").execute()
    assert [given(cell) for cell in ours.cells] == [given(cell) for cell in theirs.cells]
    assert any(given(cell) for cell in ours.cells)


def given(cell: Any) -> tuple[str, int]:
    """Return what a cell printed, and how many pictures it drew."""
    outputs = cell.get("outputs", [])
    printed = "".join(o["text"] for o in outputs if o.get("name") == "stdout")
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    return printed, sum(kind.startswith("image/") for kind in kinds)
