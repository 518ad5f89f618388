"""The form of a lesson: a question, a formula and its asterisk, exercises that ran, a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handwave_site.blocks import read_page

DOCS = Path(__file__).parents[1] / "docs"
LESSONS = sorted(DOCS.glob("[0-9][0-9]-*.md"))
ANSWER = '??? success "Answer"'

lessons = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def parts(lesson: Path) -> tuple[str, str]:
    """Part a lesson before its exercises."""
    body, _, rest = lesson.read_text(encoding="utf-8").partition("\n## Your turn\n")
    return body, rest


def test_there_are_fifteen_lessons_each_in_the_menu_and_on_the_map() -> None:
    numbers = [int(path.stem[:2]) for path in LESSONS]
    assert numbers == list(range(1, 16))
    menu = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    home = (DOCS / "index.md").read_text(encoding="utf-8")
    for path in LESSONS:
        assert f"- {path.name}\n" in menu
        assert f"]({path.name})" in home


@lessons
def test_a_lesson_opens_with_a_question_and_ends_with_one_sentence(lesson: Path) -> None:
    body, rest = parts(lesson)
    opening = body.split("\n# ", 1)[1]
    assert opening.index('!!! question "') < opening.index("\n## ")
    assert "\n## One formula" in body
    assert "**The asterisk.**" in body
    tip = re.findall(r'^!!! tip "Take away"\n((?:    .*\n|\n)+)', rest, re.MULTILINE)
    assert len(tip) == 1
    assert len(tip[0].strip().split("\n")) == 1
    assert rest.index("\n!!! tip") < rest.index("\n## Sources\n")


@lessons
def test_a_lesson_has_exercises_whose_answers_ran(lesson: Path) -> None:
    _, rest = parts(lesson)
    tasks = re.split(r"^(?=\*\*\d\.)", rest.split("\n!!! tip")[0], flags=re.MULTILINE)[1:]
    assert 2 <= len(tasks) <= 3
    assert any(
        task.startswith(f"**{i}. Predict before you run.**") for i, task in enumerate(tasks, 1)
    )
    for task in tasks:
        assert task.count(ANSWER) == 1
        assert "    ```python\n" in task.split(ANSWER)[1]


@lessons
def test_a_lesson_leads_to_the_next(lesson: Path) -> None:
    number = LESSONS.index(lesson)
    if number + 1 < len(LESSONS):
        assert f"]({LESSONS[number + 1].name})" in parts(lesson)[1].split("\n!!! tip")[1]


@lessons
def test_a_lessons_blocks_are_short(lesson: Path) -> None:
    long = {
        block.line: lines
        for block in read_page(lesson).blocks
        if (lines := len([line for line in block.code.split("\n") if line.strip()])) > 20
    }
    assert not long, f"{lesson.name}: make a function of the library, or an example, of these"
