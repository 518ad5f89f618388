"""What stands around a page: its question, and how long it takes."""

from __future__ import annotations

import pytest

from handwave_site.bylines import minutes, opening_question

BLOCK = "\n```python\nprint(1)\nprint(2)\n```\n"


def test_a_page_asks_what_its_first_question_box_asks() -> None:
    page = '# A\n\n!!! question "How bad can it get?"\n    Guess.\n\n!!! question "And then?"\n'
    assert opening_question(page) == "How bad can it get?"


def test_a_page_without_a_question_asks_nothing() -> None:
    assert opening_question('# A\n\n!!! tip "Take away"\n    A.\n') is None


@pytest.mark.parametrize(("words", "found"), [(1, 1), (220, 1), (440, 2), (2200, 10)])
def test_two_hundred_and_twenty_words_take_a_minute(words: int, found: int) -> None:
    assert minutes("word " * words) == found


def test_six_blocks_take_a_minute_and_their_lines_are_no_words() -> None:
    assert minutes("word " * 220 + BLOCK * 12) == 3


@pytest.mark.parametrize(
    "unread",
    [
        '\n??? success "Answer"\n' + "    word " * 100 + "\n\n    More words.\n",
        "\n![" + "seen " * 900 + "](a.svg)\n",
        "\n```text\n" + "printed " * 900 + "\n```\n",
        "\n<!--" + "hidden " * 900 + "-->\n",
    ],
)
def test_what_nobody_reads_takes_no_time(unread: str) -> None:
    assert minutes("word " * 440 + unread + "\nEnd.\n") == 2
