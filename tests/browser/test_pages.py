"""Every page in a real browser, in both colour schemes, on a desktop and on a phone."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES: dict[str, ViewportSize] = {
    "desktop": {"width": 1440, "height": 900},
    "phone": {"width": 375, "height": 812},
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def origin(built_site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(built_site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "google-chrome", "chromium-browser")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        message = "no chromium found; apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture(params=[(scheme, size) for scheme in ("light", "dark") for size in SIZES])
def page(
    request: pytest.FixtureRequest, browser: Browser, origin: str, complaints: list[str]
) -> Iterator[Page]:
    scheme, size = request.param
    context = browser.new_context(color_scheme=scheme, viewport=SIZES[size])
    page = context.new_page()
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None
    )
    page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith((origin, "data:")) else complaints.append(r.url),
    )
    yield page
    context.close()


def urls(site: Path) -> list[str]:
    return sorted(path.parent.relative_to(site).as_posix() for path in site.rglob("index.html"))


def test_every_page_loads_whole_and_fits_its_window(
    page: Page, origin: str, built_site: Path, complaints: list[str]
) -> None:
    assert len(urls(built_site)) >= 8
    for url in urls(built_site):
        page.goto(f"{origin}/{url}/", wait_until="networkidle")
        broken = page.evaluate(
            """async () => {
                const images = [...document.querySelectorAll("article img")];
                await Promise.all(images.map(image => image.decode().catch(() => {})));
                return images.filter(image => !image.naturalWidth).map(image => image.src);
            }"""
        )
        assert not broken, url
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), url
        assert not complaints, url


def test_the_palette_button_changes_the_figures_too(
    page: Page, origin: str, complaints: list[str]
) -> None:
    page.goto(f"{origin}/", wait_until="networkidle")
    figure = page.locator("img.figure").first
    figure.scroll_into_view_if_needed()
    before = figure.screenshot()
    page.locator("label[title^='Switch to']:visible").click()
    page.wait_for_timeout(400)
    assert figure.screenshot() != before
    assert not complaints


def test_no_figure_cuts_its_text_off(browser: Browser, origin: str, built_site: Path) -> None:
    page = browser.new_page()
    cut = []
    for path in sorted(built_site.glob("figures/**/*.svg")):
        page.goto(f"{origin}/{path.relative_to(built_site).as_posix()}")
        cut += page.evaluate(
            """() => {
                const all = document.documentElement.getBoundingClientRect();
                return [...document.querySelectorAll("text")].filter(text => {
                    const box = text.getBoundingClientRect();
                    return box.left < all.left - 1 || box.right > all.right + 1
                        || box.top < all.top - 1 || box.bottom > all.bottom + 1;
                }).map(text => `${location.pathname}: ${text.textContent}`);
            }"""
        )
    page.close()
    assert not cut


def test_the_cheat_sheet_prints_on_one_page(browser: Browser, origin: str) -> None:
    page = browser.new_page()
    page.goto(f"{origin}/cheat-sheet/", wait_until="networkidle")
    printed = page.pdf(format="A4", margin={"top": "10mm", "bottom": "10mm"})
    page.close()
    assert re.findall(rb"/Count (\d+)", printed) == [b"1"]
