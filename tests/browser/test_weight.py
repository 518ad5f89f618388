"""What a first visit transfers, compressed, headers counted (1 kB = 1000 bytes)."""

from __future__ import annotations

import gzip
from pathlib import Path

from playwright.sync_api import Browser

LESSON, EXAMPLE, FIGURE = 150_000, 200_000, 8_000


def first_visit(browser: Browser, address: str) -> dict[str, int]:
    """Open a page with nothing kept, scroll to its end; return the bytes by address."""
    context = browser.new_context()
    page = context.new_page()
    wire = context.new_cdp_session(page)
    names: dict[str, str] = {}
    found: dict[str, int] = {}
    wire.on(
        "Network.requestWillBeSent", lambda e: names.update({e["requestId"]: e["request"]["url"]})
    )
    wire.on(
        "Network.loadingFinished",
        lambda e: found.update({names[e["requestId"]]: e["encodedDataLength"]}),
    )
    wire.send("Network.enable")
    page.goto(address, wait_until="networkidle")
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.wait_for_load_state("networkidle")
    context.close()
    return {url: size for url, size in found.items() if not url.startswith("data:")}


def check(browser: Browser, origin: str, urls: list[str], bound: int) -> None:
    for url in urls:
        parts = first_visit(browser, f"{origin}/{url}/")
        assert sum(parts.values()) <= bound, (url, sum(parts.values()), parts)
        assert not [part for part in parts if "search_index" in part]


def pages(site: Path, pattern: str) -> list[str]:
    return sorted(path.parent.relative_to(site).as_posix() for path in site.glob(pattern))


def test_a_first_visit_of_a_lesson_is_light(
    browser: Browser, origin: str, built_site: Path
) -> None:
    lessons = pages(built_site, "[01][0-9]-*/index.html")
    assert len(lessons) == 15
    check(browser, origin, lessons, LESSON)


def test_a_first_visit_of_an_example_is_light(
    browser: Browser, origin: str, built_site: Path
) -> None:
    examples = pages(built_site, "examples/*/index.html")
    assert examples
    check(browser, origin, examples, EXAMPLE)


def test_a_figure_is_light(built_site: Path) -> None:
    figures = [*built_site.glob("figures/**/*.svg"), *built_site.glob("examples/**/*.svg")]
    assert len(figures) >= 30
    heavy = {path.name: len(gzip.compress(path.read_bytes())) for path in figures}
    assert not {name: size for name, size in heavy.items() if size > FIGURE}
