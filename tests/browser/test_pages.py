"""Every page in a real browser, in both colour schemes, on a desktop and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from site_server import serve

from .conftest import SIZES

# Waits for what is loaded late, and lists the pictures that did not come.
BROKEN = """async () => {
    const images = [...document.querySelectorAll("article img")];
    await Promise.all(images.map(image => image.decode().catch(() => {})));
    return images.filter(image => !image.naturalWidth).map(image => image.src);
}"""
TOO_WIDE = "document.documentElement.scrollWidth > innerWidth"
ALL_RULES = {"resultTypes": ["violations"]}
# Half a second a page. Text has the colours that it has on a desktop; only what stands around it,
# on every page alike, is another on a phone.
BUT_CONTRAST = ALL_RULES | {"rules": {"color-contrast": {"enabled": False}}}


def urls(site: Path) -> list[str]:
    found = sorted(p.parent.relative_to(site).as_posix() for p in site.rglob("index.html"))
    return ["404.html", *(f"{url}/" if url != "." else "" for url in found)]


def violations(page: Page, rules: dict[str, Any] = ALL_RULES) -> list[str]:
    """Name what axe finds, with the first element for each rule."""
    found = Axe().run(page, options=rules).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("look", [(scheme, size) for scheme in ("light", "dark") for size in SIZES])
def test_every_page_is_whole_fits_its_window_and_can_be_read_by_all(
    open_page: Any, built_site: Path, complaints: list[str], look: tuple[str, str], part: int
) -> None:
    pages = urls(built_site)
    assert len(pages) >= 34
    page = open_page("", *look)
    origin = page.url
    for place, url in enumerate(pages[part::3]):
        rules = BUT_CONTRAST if look[1] == "phone" and place else ALL_RULES
        page.goto(origin + url, wait_until="load")
        assert not page.evaluate(BROKEN), url
        assert not page.evaluate(TOO_WIDE), url
        assert not violations(page, rules), url
        assert not complaints, url


@pytest.mark.parametrize(
    "planted",
    [
        ('<script src="https://cdn.example/a.js"></script>', "https://cdn.example/a.js"),
        ("<script>document.title = 'planted'</script>", "policy: script-src-elem inline"),
        ('<p style="color:red">red</p>', "policy: style-src-attr inline"),
        ('<p onclick="1">press</p><img src="/no.png" alt="none">', "404"),
    ],
)
def test_a_browser_says_so_where_something_is_planted(
    open_page: Any, built_site: Path, complaints: list[str], tmp_path: Path, planted: Any
) -> None:
    markup, seen = planted
    text = (built_site / "sources/index.html").read_text(encoding="utf-8")
    (tmp_path / "index.html").write_text(
        text.replace("</article>", f"{markup}</article>"), encoding="utf-8"
    )
    with serve(tmp_path) as origin:
        page = open_page(f"{origin}/")
        page.wait_for_timeout(200)
    assert any(seen in complaint for complaint in complaints), complaints


def test_axe_says_so_where_something_is_planted(open_page: Any) -> None:
    page = open_page("sources/")
    assert not violations(page)
    page.evaluate("document.querySelector('article').append(document.createElement('img'))")
    assert [each.split(":")[0] for each in violations(page)] == ["image-alt"]
    assert [each.split(":")[0] for each in violations(page, BUT_CONTRAST)] == ["image-alt"]
    page.evaluate("document.querySelector('article img:last-child').remove()")
    page.evaluate("document.querySelector('article p').style.color = '#888'")
    assert [each.split(":")[0] for each in violations(page)] == ["color-contrast"]
