"""The built pages: the build is strict, and every link and anchor in it leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from lxml import html

ROOT = Path(__file__).parents[1]
LINKS = "//@href | //@src"


@pytest.fixture(scope="module")
def pages(built_site: Path) -> dict[Path, html.HtmlElement]:
    return {
        path: html.document_fromstring(path.read_bytes()) for path in built_site.rglob("*.html")
    }


def target(site: Path, page: Path, link: str) -> Path:
    path = unquote(urlsplit(link).path)
    if not path:
        return page
    found = site / path.lstrip("/") if path.startswith("/") else page.parent / path
    return (found / "index.html" if found.is_dir() else found).resolve()


def test_there_is_a_page_for_each_lesson_and_example(built_site: Path) -> None:
    sources = [*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    folder = {".md": "", ".py": "examples/"}
    for source in sources:
        name = "" if source.stem == "index" else f"{folder[source.suffix]}{source.stem}/"
        assert (built_site / name / "index.html").is_file(), source


def test_every_internal_link_and_anchor_is_alive(
    built_site: Path, pages: dict[Path, html.HtmlElement]
) -> None:
    dead = []
    for page, root in pages.items():
        for link in root.xpath(LINKS):
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            found = target(built_site.resolve(), page.resolve(), link)
            anchor = unquote(urlsplit(link).fragment)
            if not found.is_file() or (
                anchor and found.suffix == ".html" and not has_anchor(pages, found, anchor)
            ):
                dead.append(f"{page.relative_to(built_site)}: {link}")
    assert not dead


def has_anchor(pages: dict[Path, html.HtmlElement], page: Path, anchor: str) -> bool:
    root = next(tree for path, tree in pages.items() if path.resolve() == page)
    return bool(root.xpath("//*[@id=$anchor or @name=$anchor]", anchor=anchor))


def test_every_external_link_is_well_formed(pages: dict[Path, html.HtmlElement]) -> None:
    for page, root in pages.items():
        for link in root.xpath(LINKS):
            parts = urlsplit(link)
            if parts.scheme in ("data", "mailto", ""):
                continue
            assert parts.scheme in ("https", "http"), (page, link)
            assert re.fullmatch(r"[\w.-]+(:\d+)?", parts.netloc), (page, link)


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, html.HtmlElement]) -> None:
    fetched = "//script/@src | //img/@src | //link[not(@rel='canonical')]/@href | //iframe/@src"
    for page, root in pages.items():
        for link in root.xpath(fetched):
            ours = urlsplit(link).netloc in ("", "127.0.0.1:8000")
            assert ours or link.startswith("data:"), (page, link)


def test_every_figure_has_an_alt_text_and_a_size(pages: dict[Path, html.HtmlElement]) -> None:
    figures = [image for root in pages.values() for image in root.xpath("//article//img")]
    assert figures
    for image in figures:
        assert image.get("alt"), image.get("src")
        assert int(image.get("width")) > 0
        assert int(image.get("height")) > 0


def test_formulas_are_mathml_and_no_tex_is_left(pages: dict[Path, html.HtmlElement]) -> None:
    assert sum(len(root.xpath("//math")) for root in pages.values()) > 5
    for page, root in pages.items():
        prose = " ".join(
            root.xpath("//article//text()[not(ancestor::pre) and not(ancestor::code)]")
        )
        assert not re.search(r"\$[^$\n]+\$|\\frac|\\sqrt|\\\(", prose), page
