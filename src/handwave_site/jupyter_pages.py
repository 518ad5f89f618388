"""mkdocs-jupyter's HTML in the site's own markup: no style, no script, figures as files."""

from __future__ import annotations

import base64
import html as text
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from xml.etree.ElementTree import Element, tostring

from lxml import html as parser

from handwave_site import svg
from handwave_site.rendering import make_figure

_DATA = "data:image/svg+xml;base64,"
_CELL = "cell-id="


def restyle(page: str, alts: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Rewrite a rendered notebook.

    Code and text outputs become what Material makes of a fence; the chunks in which a cell's
    text happened to arrive are joined; each SVG becomes a file of both colour schemes.

    Args:
        page: what mkdocs-jupyter rendered.
        alts: by cell id, what is to be seen in the cell's figure.

    Returns:
        The page, and its figures by file name.

    Raises:
        ValueError: a figure has no alt text, or a cell writes to stderr.
    """
    figures: dict[str, str] = {}
    root = parser.fragment_fromstring(f"<div>{page}</div>")
    cells = root.xpath(f"//div[starts-with(@id, '{_CELL}')]")
    parts = [part for cell in cells for part in _cell(cell, alts, figures)]
    return "\n".join(parts), figures


def _cell(
    cell: parser.HtmlElement, alts: Mapping[str, str], figures: dict[str, str]
) -> Iterator[str]:
    name = cell.get("id").removeprefix(_CELL)
    for prose in cell.find_class("jp-RenderedMarkdown"):
        yield _inner(prose)
    for code in cell.find_class("jp-Editor"):
        yield _code(_inner(code.xpath(".//pre")[0]), "python")
    outputs = cell.find_class("jp-OutputArea-output")
    for kind, group in groupby(outputs, lambda output: output.get("data-mime-type")):
        if kind == "image/svg+xml":
            for output in group:
                yield _figure(output, name, alts.get(name, ""), figures)
        elif kind == "text/plain":
            printed = "".join(output.xpath(".//pre")[0].text_content() for output in group)
            yield _code(text.escape(printed), "text")
        elif kind == "application/vnd.jupyter.stderr":
            said = "".join(output.text_content() for output in group).strip()
            raise ValueError(f"{name} writes to stderr, {said[-200:]!r}; mend its cause")
        else:
            yield from (_inner(output) for output in group)


def _inner(element: parser.HtmlElement) -> str:
    inside = "".join(str(parser.tostring(e, encoding="unicode")) for e in element)
    # Headings keep their ids; the site marks its own anchors.
    inside = re.sub(r'<a class="anchor-link"[^>]*>.*?</a>', "", inside)
    return text.escape(element.text or "", quote=False) + inside


def _code(markup: str, language: str) -> str:
    return (
        f'<div class="language-{language} highlight"><pre><span></span>'
        f"<code>{markup.rstrip()}\n</code></pre></div>"
    )


def _figure(output: parser.HtmlElement, cell: str, alt: str, figures: dict[str, str]) -> str:
    if not alt:
        raise ValueError(f'{cell} draws; say what is to be seen: # %% alt="…"')
    source = output.xpath(".//img/@src")[0]
    picture = svg.two_schemes(base64.b64decode(source.removeprefix(_DATA)))
    number = len(figures) + 1
    figures[f"figure-{number}.svg"] = picture
    shown = Element("figure")
    width, height = map(str, svg.size(picture))
    size = {"class": "figure", "width": width, "height": height}
    make_figure(shown, Element("img", size, alt=alt, src=f"figure-{number}.svg"), number)
    return tostring(shown, encoding="unicode", method="html")
