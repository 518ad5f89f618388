"""What a reader does with the site: search, copy, download, switch, print, do without scripts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from handwave_site.blocks import read_page

DOCS = Path(__file__).parents[2] / "docs"


def search(page: Any, words: str) -> list[str]:
    """Type into the search; return the addresses found, best first."""
    page.locator(".md-search__input").click()
    page.keyboard.type(words)
    page.locator(".md-search-result__link").first.wait_for()
    page.wait_for_timeout(300)
    links = page.locator(".md-search-result__link")
    return links.evaluate_all("links => links.map(link => new URL(link.href).pathname)")


@pytest.mark.parametrize(
    ("words", "lesson"),
    [
        ("kaiming", "/12-defaults/"),
        ("kaiming_uniform_", "/12-defaults/"),
        ("√n", "/05-square-root/"),
        ("fan_in", "/11-layers/"),
        ("calculate_gain", "/08-gains/"),
        ("repair_", "/15-your-network/"),
    ],
)
def test_search_finds_the_lesson_on(
    open_page: Any, complaints: list[str], words: str, lesson: str
) -> None:
    assert lesson in search(open_page(""), words)
    assert not complaints


def test_the_index_is_fetched_when_somebody_searches_and_not_before(
    open_page: Any, complaints: list[str]
) -> None:
    page, asked = open_page("sources/"), []
    page.on("request", lambda request: asked.append(request.url))
    page.reload(wait_until="networkidle")
    assert not [url for url in asked if "search_index" in url or "/workers/" in url]
    assert search(page, "kaiming")
    assert len([url for url in asked if "search_index" in url]) == 1
    assert not complaints


def test_a_key_opens_the_search(open_page: Any) -> None:
    page = open_page("")
    page.keyboard.press("s")
    page.keyboard.type("orthogonal")
    page.locator(".md-search-result__link").first.wait_for()


def test_the_palette_button_changes_the_figures_too(open_page: Any, complaints: list[str]) -> None:
    page = open_page("")
    figure = page.locator("img.figure").first
    figure.scroll_into_view_if_needed()
    before = figure.screenshot()
    page.locator("label[title^='Switch to']:visible").click()
    page.wait_for_timeout(400)
    assert figure.screenshot() != before
    assert not complaints


@pytest.mark.parametrize("name", ["01-explosion", "07-relu"])
def test_a_copied_block_is_a_program_that_runs(
    open_page: Any, complaints: list[str], tmp_path: Path, name: str
) -> None:
    page = open_page(f"{name}/")
    blocks = read_page(DOCS / f"{name}.md").blocks
    buttons = page.locator(".copy")
    assert buttons.count() == len(blocks)
    buttons.nth(0).click()
    page.wait_for_timeout(200)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == blocks[0].code.strip()
    ran = subprocess.run(
        [sys.executable, "-c", copied], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert blocks[0].output is None or ran.stdout == blocks[0].output.text
    assert not complaints


def test_a_notebook_downloads_and_is_valid(open_page: Any, complaints: list[str]) -> None:
    page = open_page("08-gains/")
    with page.expect_download() as download:
        page.get_by_role("link", name="download as a notebook").click()
    notebook = nbformat.read(download.value.path(), as_version=4)
    nbformat.validate(notebook)
    kinds = {output.output_type for cell in notebook.cells for output in cell.get("outputs", [])}
    assert kinds == {"stream", "display_data"}
    assert not complaints


def test_without_scripts_there_are_words_formulas_figures_and_a_way_on(open_page: Any) -> None:
    page = open_page("08-gains/", scripts=False)
    assert page.locator("article p").first.is_visible()
    assert page.locator("math").first.is_visible()
    figure = page.locator("img.figure").first
    figure.scroll_into_view_if_needed()
    assert figure.bounding_box()["height"] > 100
    assert not page.locator(".copy").first.is_visible()  # a button that would do nothing
    page.locator(".turn__link--next").click()
    assert page.url.endswith("/09-backward/")


def test_the_next_page_is_named_with_what_it_asks_and_comes_without_a_reload(
    open_page: Any, complaints: list[str]
) -> None:
    page = open_page("sources/")
    # The sitemap, which says where to go without a reload, was built for another port.
    origin = page.url.removesuffix("/sources/")
    sitemap = page.request.get(f"{origin}/sitemap.xml").text()
    body = sitemap.replace("http://127.0.0.1:8000", origin)
    page.route("**/sitemap.xml", lambda route: route.fulfill(body=body, content_type="text/xml"))
    page.goto(f"{origin}/01-explosion/", wait_until="networkidle")
    page.evaluate("window.kept = true")
    link = page.locator(".turn__link--next")
    assert "Where does the 784 come from?" in link.inner_text()
    link.click()
    page.locator("h1", has_text="One number out").wait_for()
    assert page.evaluate("window.kept")
    assert not complaints


def test_the_first_key_leads_past_the_menus(open_page: Any) -> None:
    page = open_page("01-explosion/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className").split()[0] == "md-skip"
    page.keyboard.press("Enter")
    assert "#" in page.url


def test_a_figure_opens_large(open_page: Any, complaints: list[str]) -> None:
    page = open_page("01-explosion/")
    page.locator("a.opens").first.click()
    page.wait_for_url("**/figures/01-explosion/explosion.svg")
    assert not complaints


def test_a_missing_page_says_so_and_leads_home(open_page: Any, complaints: list[str]) -> None:
    page = open_page("nowhere/to/be/found/")
    assert "404" in " ".join(complaints)
    assert page.locator("h1").inner_text() == "This page vanished"
    page.locator("article a").first.click()
    page.locator("h1", has_text="bad mathematicians").wait_for()


def test_a_lesson_prints_with_its_answers_unfolded(open_page: Any, tmp_path: Path) -> None:
    page = open_page("01-explosion/")
    page.emulate_media(media="print")
    answer = page.locator("details p").first
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(200)
    assert answer.is_visible()
    assert not page.locator(".md-header").is_visible()
    assert not page.locator(".turn").is_visible()


# Lists the code of a table that is broken at another place than a space.
BROKEN_NAMES = """[...document.querySelectorAll(":is(th, td) code")]
    .filter(code => code.getClientRects().length > code.textContent.split(" ").length)
    .map(code => code.textContent)"""
# Measures, for each table, how far it reaches beyond the box that it scrolls in.
BEYOND = """[...document.querySelectorAll(".md-typeset__scrollwrap")]
    .map(box => box.scrollWidth - box.clientWidth)"""


@pytest.mark.parametrize(
    ("name", "tables", "fit"),
    [("", 3, True), ("api/", 1, True), ("cheat-sheet/", 2, True), ("notation/", 1, False)],
)
def test_a_table_on_a_phone_breaks_no_name_and_fits_or_scrolls(
    open_page: Any, name: str, tables: int, fit: bool
) -> None:
    page = open_page(name, size="phone")
    beyond = page.evaluate(BEYOND)
    assert len(beyond) == tables
    assert fit == (max(beyond) == 0)
    assert not page.evaluate(BROKEN_NAMES)
    sentences = page.locator("td:nth-child(2)" if name == "" else "td:nth-child(4)")
    assert all(box["width"] > 150 for box in (s.bounding_box() for s in sentences.all()))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "box"), [("notation/", ".md-typeset__scrollwrap"), ("09-backward/", "div.arithmatex")]
)
def test_on_a_phone_a_shade_says_that_there_is_more_to_scroll_to(
    open_page: Any, scheme: str, name: str, box: str
) -> None:
    page = open_page(name, scheme=scheme, size="phone")
    wide = f"[...document.querySelectorAll('{box}')].find(b => b.scrollWidth > b.clientWidth + 20)"
    page.evaluate(f"{wide}.id = 'wide'")
    page.evaluate("wide.scrollIntoView(), scrollBy(0, -200)")
    # Just inside the upper edge, above all words: six pixels at the right, and six at the left.
    area = page.locator("#wide").bounding_box()
    corners = [
        {"x": x, "y": area["y"] + 1, "width": 6, "height": 2}
        for x in (area["x"] + area["width"] - 6, area["x"])
    ]
    right, left = (page.screenshot(clip=corner) for corner in corners)
    page.evaluate("wide.scrollLeft = 9999")
    end_right, end_left = (page.screenshot(clip=corner) for corner in corners)
    assert right != end_right
    assert left != end_left


def test_on_a_phone_the_button_covers_no_command(open_page: Any) -> None:
    page = open_page("15-your-network/", size="phone")
    button = page.locator(".language-console .copy").bounding_box()
    first = page.evaluate(
        """() => {
            const range = document.createRange();
            range.selectNodeContents(document.querySelector(".language-console pre > code"));
            return range.getBoundingClientRect().top;
        }"""
    )
    assert button["y"] + button["height"] <= first


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_the_cheat_sheet_prints_on_one_page(open_page: Any, paper: str) -> None:
    page = open_page("cheat-sheet/")
    printed = page.pdf(format=paper, margin={"top": "10mm", "bottom": "10mm"})
    assert re.findall(rb"/Count (\d+)", printed) == [b"1"]


# Names every cell and block of which a part stands outside its column of the sheet, or in a box
# that would have to be scrolled; and cells too small to read, of less than 6.5 points.
CUT = """() => {
    const article = document.querySelector("article"), all = article.getBoundingClientRect();
    const gap = parseFloat(getComputedStyle(article).columnGap), width = (all.width - gap) / 2;
    const starts = [all.left, all.left + width + gap];
    const inside = box => starts.some(
        start => start - 1 < box.left && box.right < start + width + 1);
    const small = cell => parseFloat(getComputedStyle(cell).fontSize) < 6.5 * 96 / 72;
    const scrolls = part => getComputedStyle(part).overflowX !== "visible"
        && part.scrollWidth > part.clientWidth + 1;
    const bad = part => scrolls(part) || ![...part.getClientRects()].every(inside)
        || part.matches("td") && small(part);
    return [...article.querySelectorAll("th, td, pre, .md-typeset__scrollwrap")]
        .filter(bad).map(part => part.textContent.trim());
}"""


@pytest.mark.parametrize("width", [196, 202])  # of A4 and Letter between the margins, in mm
def test_nothing_on_the_printed_cheat_sheet_is_cut(open_page: Any, width: int) -> None:
    page = open_page("cheat-sheet/")
    page.set_viewport_size({"width": int(width / 25.4 * 96), "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('article')).columnCount") == "2"
    assert page.locator("article th", has_text="lesson").count() == 2
    assert not page.evaluate(CUT)
