"""Pages are cut into fences and lines, as pytest-codeblocks and MkDocs cut them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mkdocs.utils import meta

from handwave_site.fences import Fence, Line, front_matter, parts
from handwave_site.model import Page

TEXT = "words\n\n```python\nx = 1\n```\n- a\n\n  ````markdown\n  ```py\n  ````\nend\n"


def cut(text: str) -> list[Fence | Line]:
    return list(parts(Page(Path("page.md"), text)))


def test_fences_know_their_lines_their_info_and_their_indentation() -> None:
    python, markdown = (part for part in cut(TEXT) if isinstance(part, Fence))
    assert (python.first, python.last, python.info, python.indent) == (3, 5, "python", 0)
    assert python.is_block
    assert python.body == "x = 1\n"
    assert (markdown.first, markdown.last, markdown.ticks, markdown.indent) == (8, 10, "````", 2)
    assert not markdown.is_block
    assert markdown.body == "```py\n"


def test_every_line_is_in_exactly_one_part() -> None:
    seen = []
    for part in cut(TEXT):
        seen += range(part.first, part.last + 1) if isinstance(part, Fence) else [part.number]
    assert seen == list(range(1, TEXT.count("\n") + 2))


def test_the_lines_of_a_comment_are_marked() -> None:
    lines = [part for part in cut("a\n<!-- b\nc -->\nd\n") if isinstance(part, Line)]
    assert [line.commented for line in lines] == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("---\ntitle: A\n---\nwords", 3),
        ("---\ntitle: A\n...\nwords", 3),
        ("# A\n\n---\n\na: b\n\n---\n", 0),
        ("words", 0),
        ("", 0),
    ],
)
def test_front_matter_is_what_mkdocs_takes_away(text: str, count: int) -> None:
    assert front_matter(text) == count


@given(st.lists(st.sampled_from(["---", "...", "a: b", "words", "", " ---", "- x"]), max_size=7))
def test_what_is_left_out_is_never_rendered(lines: list[str]) -> None:
    text = "\n".join(lines)
    skipped = "\n".join(text.split("\n")[: front_matter(text)])
    rendered, _ = meta.get_data(text)
    assert len(skipped.strip()) <= len(text.strip()) - len(rendered.strip())
