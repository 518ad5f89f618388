"""What the site adds to Markdown: numbered figures, formulas as MathML, a tooltip a section."""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor

from handwave_site import svg
from handwave_site.tooltips import once_a_section

if TYPE_CHECKING:
    from handwave_site.mathml import MathRenderer


class SiteExtension(Extension):
    """A Markdown extension of the plugin's; `page` is the file that is being rendered."""

    def __init__(self, math: MathRenderer, report: Callable[[str, str], None]) -> None:
        """Render formulas with `math`; `report(tex, message)` hears of those that are wrong."""
        super().__init__()
        self.math = math
        self.report = report
        self.page: Path | None = None

    def begin(self, page: Path) -> None:
        """Turn to another page."""
        self.page = page
        self.figures = itertools.count(1)

    def extendMarkdown(self, md: Markdown) -> None:
        """Register with Markdown, after inline parsing and before links are made relative."""
        md.treeprocessors.register(_Finish(md, self), "handwave_site", 5)


class _Finish(Treeprocessor):
    def __init__(self, md: Markdown, extension: SiteExtension) -> None:
        super().__init__(md)
        self.extension = extension

    def run(self, root: Element) -> None:
        once_a_section(root)
        for element in list(root.iter()):
            if "arithmatex" in element.get("class", "").split():
                self._formula(element)
            elif element.tag == "p" and _is_a_picture(element) and self._size(element[0]):
                image = element[0]
                element.remove(image)
                make_figure(element, image, next(self.extension.figures))
            elif element.tag == "img":
                self._size(element)

    def _size(self, image: Element) -> bool:
        """Say a picture's size, so that the page does not jump when it arrives, if it is ours."""
        page, link = self.extension.page, image.get("src", "")
        if page is None or not link.endswith(".svg") or not (page.parent / link).is_file():
            return False
        try:
            width, height = svg.size((page.parent / link).read_text(encoding="utf-8"))
        except ValueError:
            return False  # a picture of somebody else's making
        image.attrib.update({"class": "figure", "width": str(width), "height": str(height)})
        return True

    def _formula(self, element: Element) -> None:
        tex = (element.text or "").strip()
        display = tex.startswith(r"\[")
        tex = tex[2:-2].strip()  # without its delimiters
        tex = html.unescape(tex) if display else tex  # arithmatex escapes what is displayed
        try:
            rendered = self.extension.math.render(tex, display=display)
        except ValueError as error:
            self.extension.report(tex, str(error))
            return
        if display:
            element.set("tabindex", "0")  # where it is wider than a phone, keys can move it
        element.text = self.md.htmlStash.store(rendered)


def _is_a_picture(paragraph: Element) -> bool:
    """Tell a paragraph that holds one picture and no word."""
    words = (paragraph.text or "") + "".join(child.tail or "" for child in paragraph)
    return len(paragraph) == 1 and paragraph[0].tag == "img" and not words.strip()


def make_figure(element: Element, image: Element, number: int) -> None:
    """Turn an element into a numbered figure around an image, which a click opens large."""
    element.tag = "figure"
    link = image.get("src", "")
    SubElement(element, "a", {"class": "opens", "href": link}).append(image)
    origin = ", drawn by the block above" if "figure" in link else ""
    SubElement(element, "figcaption").text = f"Figure {number}{origin}"
