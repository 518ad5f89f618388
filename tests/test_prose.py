"""What the prose of a page may hold, and what inline code hides of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handwave_site.model import Page
from handwave_site.prose import MARKER, check_comment, check_paragraph, resembles_a_marker
from handwave_site.prose import without_code as plain


def check(*lines: str) -> Page:
    page = Page(Path("page.md"), "")
    check_paragraph(page, 10, list(lines))
    return page


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a `b` c", "a     c"),
        ("a ``b ` c`` d", "a           d"),
        ("a `b c", "a `b c"),
        ("a ` b `` c ` d", "a            d"),
        (r"a \` b `c` d", "a    b     d"),
        ("a `b\nc` d", "a   \n   d"),
    ],
)
def test_inline_code_is_blanked_out(text: str, left: str) -> None:
    assert plain(text) == left


@given(st.text(alphabet="a`\\*{\n ", max_size=40))
def test_places_stay_where_they_are(text: str) -> None:
    found = plain(text)
    assert len(found) == len(text)
    assert [i for i, c in enumerate(found) if c == "\n"] == [
        i for i, c in enumerate(text) if c == "\n"
    ]


def test_a_number_is_found_in_its_own_line_of_a_paragraph() -> None:
    page = check("words", "*1.5*{.measured} and *2.5*{.measured}", "*3.5*{.measured}")
    assert [(q.line, q.number) for q in page.quotes] == [(11, "1.5"), (11, "2.5"), (12, "3.5")]
    assert page.problems == []


def test_code_that_spans_lines_hides_no_number_that_is_shown() -> None:
    page = check("some `code", "code` *1.5*{.measured} `code`")
    assert [(q.line, q.number) for q in page.quotes] == [(11, "1.5")]


@pytest.mark.parametrize(
    "markup",
    ['<em class="measured">1.5</em>', "<span class='big measured'>1.5</span>"],
)
def test_a_quoted_number_is_not_written_in_html(markup: str) -> None:
    (problem,) = check(markup).problems
    assert (problem.line, "not in HTML" in problem.message) == (10, True)


@pytest.mark.parametrize("line", [MARKER, MARKER[1:], MARKER[:-1], MARKER.replace("--", "-")])
def test_a_marker_without_a_character_still_resembles_one(line: str) -> None:
    assert resembles_a_marker(line)


@pytest.mark.parametrize(
    "line", ["", "pytest-codeblocks runs them.", "- an expected output", "a-b"]
)
def test_prose_about_it_does_not(line: str) -> None:
    assert not resembles_a_marker(line)


@pytest.mark.parametrize("line", ["<!-- a note -->", "<!-- of", "it -->", ""])
def test_other_comments_are_left_alone(line: str) -> None:
    page = Page(Path("page.md"), "")
    check_comment(page, 3, line)
    assert page.problems == []
