"""Terms: each is explained on the notation page, and is a tooltip on every page."""

from __future__ import annotations

import re
from pathlib import Path

from lxml import html

ROOT = Path(__file__).parents[1]
TERMS = dict(
    re.findall(r"^\*\[(.+?)\]: (.+)$", (ROOT / "includes/glossary.md").read_text(), re.MULTILINE)
)
NOTATION = (ROOT / "docs/notation.md").read_text(encoding="utf-8")


def test_every_tooltip_is_explained_on_the_notation_page() -> None:
    text = NOTATION.lower()
    forms = {term: {term.lower().removesuffix(end) for end in ("", "s", "es")} for term in TERMS}
    assert not [term for term, known in forms.items() if not any(form in text for form in known)]


# Words that a page also uses in another sense, and names of people.
WITHOUT = {"band", "default", "draw", "mean", "spread", "unit", "Glorot", "Kaiming"}


def test_every_term_of_the_notation_page_is_a_tooltip() -> None:
    listed = re.findall(r"^(\S.*)\n:   ", NOTATION.partition("## Glossary")[2], re.MULTILINE)
    terms = {term.removesuffix(".") for each in listed for term in each.split(", ")}
    assert len(terms) > 80
    assert terms - set(TERMS) == WITHOUT


def test_a_tooltip_is_one_plain_sentence() -> None:
    for term, said in TERMS.items():
        assert len(said) <= 140, term
        assert said.endswith("."), term
        assert not re.search(r"[*`$\[\]]", said), term


def test_terms_are_tooltips_on_every_lesson(built_site: Path) -> None:
    for path in sorted((ROOT / "docs").glob("[0-9][0-9]-*.md")):
        page = html.document_fromstring((built_site / path.stem / "index.html").read_bytes())
        shown = {node.text: node.get("title") for node in page.xpath("//article//abbr")}
        assert len(shown) >= 3, path.name
        assert shown.items() <= TERMS.items()
