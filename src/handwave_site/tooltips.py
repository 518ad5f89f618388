"""A term is explained where a section first uses it; more tooltips would only be noise."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

_SECTIONS = {"h1", "h2"}
_WITHOUT = {"h1", "h2", "h3", "h4", "h5", "h6", "a"}


_TERM = re.compile(r"^\*\[(?P<term>[^\]]+)\]: *(?P<said>.+)$", re.MULTILINE)


def read_once(extensions: dict[str, Any]) -> None:
    """Hand a glossary that is appended to every text to `abbr` instead, which reads it once.

    Each docstring is a text of its own, and to parse the glossary for each takes seconds.

    Args:
        extensions: options of the Markdown extensions by name, changed in place.
    """
    snippets = extensions.get("pymdownx.snippets") or {}
    bases = snippets.get("base_path", ".")
    bases = [os.fspath(b) for b in (bases if isinstance(bases, list) else [bases])]
    left = []
    for name in snippets.get("auto_append", ()):
        file = next((Path(base, name) for base in bases if Path(base, name).is_file()), None)
        text = file.read_text(encoding="utf-8") if file else "?"
        if _TERM.sub("", text).strip():
            left.append(name)  # more than terms
        else:
            options = extensions.setdefault("abbr", {})
            options["glossary"] = options.get("glossary", {}) | dict(_TERM.findall(text))
    if snippets:
        snippets["auto_append"] = left


def once_a_section(root: Element) -> None:
    """Keep each term's first tooltip of a section; none in headings and links.

    Args:
        root: a page as Markdown made it, changed in place.
    """
    parents = {child: parent for parent in root.iter() for child in parent}
    seen: set[str] = set()
    for element in list(root.iter()):
        if element.tag in _SECTIONS:
            seen.clear()
        if element.tag != "abbr":
            continue
        said = element.get("title", "")
        if said in seen or _stands_in(element, parents, _WITHOUT):
            _unwrap(parents[element], element)
        else:
            seen.add(said)


def _stands_in(element: Element, parents: dict[Element, Element], tags: set[str]) -> bool:
    while element in parents:
        element = parents[element]
        if element.tag in tags:
            return True
    return False


def _unwrap(parent: Element, element: Element) -> None:
    """Leave an element's text in its place."""
    place = list(parent).index(element)
    text = (element.text or "") + (element.tail or "")
    parent.remove(element)
    if place:
        parent[place - 1].tail = (parent[place - 1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
