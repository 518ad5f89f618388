"""A tooltip where a section first uses a term."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor

from handwave_site.tooltips import once_a_section, read_once

TERMS = "\n\n*[gain]: A factor.\n*[gains]: Factors.\n"


class Once(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        processor = Treeprocessor(md)
        processor.run = once_a_section  # type: ignore[method-assign]
        md.treeprocessors.register(processor, "once", 5)


def shown(text: str) -> str:
    return Markdown(extensions=["abbr", Once()]).convert(text + TERMS)


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", "", html).split())


def test_a_section_explains_a_term_once() -> None:
    html = shown("A gain, *a gain* and a gain.\n\nThe gain again.\n\n## Two\n\nA gain, a gain.")
    assert html.count("<abbr") == 2
    assert html.index("<abbr") < html.index("and") < html.index("<h2>") < html.rindex("<abbr")
    assert words(html) == "A gain, a gain and a gain. The gain again. Two A gain, a gain."


def test_another_term_has_its_own() -> None:
    assert shown("A gain and gains, gains.").count("<abbr") == 2


def test_headings_and_links_have_none() -> None:
    html = shown("# The gain\n\nSee [a gain](a.md) and *[this gain](b.md)*: gain.")
    assert html.count("<abbr") == 1
    assert words(html) == "The gain See a gain and this gain: gain."


def test_text_after_a_term_stays_where_it_was() -> None:
    html = shown("gain *one* gain *two* gain three gain four")
    assert html.count("<abbr") == 1
    assert words(html) == "gain one gain two gain three gain four"


@pytest.mark.parametrize("several", [False, True])
def test_a_glossary_is_read_once_instead_of_with_every_text(tmp_path: Path, several: bool) -> None:
    (tmp_path / "terms.md").write_text(TERMS, encoding="utf-8")
    bases = [tmp_path / "nowhere", tmp_path] if several else tmp_path
    extensions = {"pymdownx.snippets": {"base_path": bases, "auto_append": ["terms.md"]}}
    read_once(extensions)
    assert extensions["pymdownx.snippets"]["auto_append"] == []
    glossary = {"gain": "A factor.", "gains": "Factors."}
    assert extensions["abbr"] == {"glossary": glossary}
    html = Markdown(extensions=["abbr"], extension_configs=extensions).convert("A gain.")
    assert '<abbr title="A factor.">gain</abbr>' in html


@pytest.mark.parametrize("text", [None, TERMS + "And a sentence."])
def test_what_is_more_than_terms_is_appended_as_before(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "terms.md").write_text(text, encoding="utf-8")
    extensions = {"pymdownx.snippets": {"base_path": tmp_path, "auto_append": ["terms.md"]}}
    read_once(extensions)
    assert extensions == {"pymdownx.snippets": {"base_path": tmp_path, "auto_append": ["terms.md"]}}


def test_without_snippets_nothing_happens() -> None:
    extensions: dict[str, dict[str, str]] = {}
    read_once(extensions)
    assert extensions == {}
