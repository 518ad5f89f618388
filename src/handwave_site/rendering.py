"""What the site adds to Markdown: the size of each picture, and formulas as MathML."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor

from handwave_site import svg

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

    def extendMarkdown(self, md: Markdown) -> None:
        """Register with Markdown, after inline parsing and before links are made relative."""
        md.treeprocessors.register(_Finish(md, self), "handwave_site", 5)


class _Finish(Treeprocessor):
    def __init__(self, md: Markdown, extension: SiteExtension) -> None:
        super().__init__(md)
        self.extension = extension

    def run(self, root: Element) -> None:
        for element in root.iter():
            if element.tag == "img":
                self._size(element)
            elif "arithmatex" in element.get("class", "").split():
                self._formula(element)

    def _size(self, image: Element) -> None:
        """Say a picture's size, so that the page does not jump when it arrives."""
        page, link = self.extension.page, image.get("src", "")
        if page is None or not link.endswith(".svg"):
            return
        path = page.parent / link
        if path.is_file():
            try:
                width, height = svg.size(path.read_text(encoding="utf-8"))
            except ValueError:
                return  # a picture of somebody else's making
            image.set("width", str(width))
            image.set("height", str(height))
            image.set("class", f"{image.get('class', '')} figure".strip())

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
        element.text = self.md.htmlStash.store(rendered)
