"""While serving, problems are shown on the page, and one edit causes one rebuild."""

from __future__ import annotations

import html
from pathlib import Path

import markdown
import pytest
from watchdog.events import FileModifiedEvent, FileSystemEvent, FileSystemEventHandler

from handwave_site import serving
from handwave_site.blocks import MARKER, read_page
from handwave_site.cache import Entry
from handwave_site.pages import Course

PAGE = f"# A\n\n```python\nprint(1)\n```\n\n{MARKER}\n```text\n2\n```\n\nWords.\n"


def course(path: Path, text: str) -> Course:
    path.write_text(text, encoding="utf-8")
    page = read_page(path)
    found = Course([page])
    found.keep(page.blocks[0], Entry("1\n", {}, 0.0, 0.0))
    return found


def test_a_page_that_is_true_is_shown_as_it_is(tmp_path: Path) -> None:
    found = course(tmp_path / "a.md", PAGE.replace("2\n", "1\n"))
    assert serving.with_problems(found, tmp_path / "a.md") is None


def test_a_page_that_is_not_shows_its_outputs_as_they_are_now_and_says_so(tmp_path: Path) -> None:
    found = course(tmp_path / "a.md", PAGE)
    found.pages[0].report(9, "the page says '2'")
    text = serving.with_problems(found, tmp_path / "a.md")
    assert text is not None
    assert "```text\n1\n```" in text
    assert "- line 9: the page says '2'" in text


def test_a_problem_is_read_as_words_whatever_markup_it_speaks_of(tmp_path: Path) -> None:
    found = course(tmp_path / "a.md", PAGE)
    message = f"write {MARKER} or ![what is *to be* seen](figures/a/_a_.svg), not ```py `x` $x$"
    found.pages[0].report(9, message)
    text = serving.with_problems(found, tmp_path / "a.md")
    assert text is not None
    shown = markdown.markdown(text, extensions=["admonition", "pymdownx.superfences"])
    assert message in html.unescape(shown)
    assert "<img" not in shown


@pytest.mark.parametrize("front", ["---\ntitle: A\n---\n", "---\ntitle: A\n...\n"])
def test_the_notice_stands_below_the_front_matter(tmp_path: Path, front: str) -> None:
    found = course(tmp_path / "a.md", front + PAGE)
    found.pages[0].report(12, "wrong")
    text = serving.with_problems(found, tmp_path / "a.md")
    assert text is not None
    assert text.startswith(front)
    assert text[len(front) :].lstrip().startswith("!!! failure")


def test_a_formula_is_named_by_page_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.md").write_text("$\\badder$\n\nand $\\bad$\n", encoding="utf-8")
    assert serving.locate(tmp_path / "a.md", r"\bad", "bad TeX") == "a.md:3: bad TeX"


class Recorder(FileSystemEventHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_any_event(self, event: FileSystemEvent) -> None:
        self.seen.append(str(event.src_path))


@pytest.mark.parametrize(
    ("path", "heard"),
    [
        ("a.md", True),
        ("figures.md", True),
        ("figures/a/b.svg", False),
        ("__pycache__/a.pyc", False),
    ],
)
def test_figures_that_the_build_writes_cause_no_build(path: str, heard: bool) -> None:
    root, recorder = Path("/somewhere/figures/docs"), Recorder()
    serving._Filtered(recorder, root).on_any_event(FileModifiedEvent(str(root / path)))
    assert bool(recorder.seen) is heard
