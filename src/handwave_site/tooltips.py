"""A term is explained where a section first uses it; more tooltips would only be noise."""

from __future__ import annotations

from xml.etree.ElementTree import Element

_SECTIONS = {"h1", "h2"}
_WITHOUT = {"h1", "h2", "h3", "h4", "h5", "h6", "a"}


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
