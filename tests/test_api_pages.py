"""The API pages: every public name at one place, linked with the lessons it comes from."""

from __future__ import annotations

import re
from pathlib import Path

import handwave as hw

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (DOCS / "api").glob("*.md")
    if path.stem != "index"
}
LESSON = re.compile(r"\]\(\.\./(\d\d-[\w-]+\.md)\)")

# Not in the package's namespace, but what its functions return or take.
FURTHER = {"Fans", "Residual", "Finding", "Repair", "Row", "main"}


def documented(text: str) -> list[str]:
    return re.findall(r"^::: handwave\.\w+\.(\w+)$", text, re.MULTILINE)


def test_every_public_name_has_one_home() -> None:
    names = [name for text in PAGES.values() for name in documented(text)]
    assert sorted(names) == sorted({*hw.__all__, *FURTHER})


def test_every_page_links_its_lessons_and_they_link_back() -> None:
    for stem, text in PAGES.items():
        lessons = LESSON.findall(text)
        assert lessons, f"api/{stem}.md links no lesson"
        for lesson in lessons:
            back = (DOCS / lesson).read_text(encoding="utf-8")
            assert f"(api/{stem}.md" in back, f"{lesson} does not link api/{stem}.md"


def test_the_overview_lists_every_page_with_its_names() -> None:
    overview = (DOCS / "api/index.md").read_text(encoding="utf-8")
    for stem, text in PAGES.items():
        row = next(line for line in overview.split("\n") if f"]({stem}.md)" in line)
        assert re.findall(r"`(\w+)`", row.split("|")[2]) == documented(text)
