"""The built site, served, and Chromium, with everything that a page does wrong written down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Request,
    ViewportSize,
    sync_playwright,
)

from site_server import serve

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES: dict[str, ViewportSize] = {
    "desktop": {"width": 1440, "height": 900},
    "phone": {"width": 375, "height": 812},
}
VIOLATIONS = """document.addEventListener("securitypolicyviolation", event =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"""


@pytest.fixture(scope="session")
def origin(built_site: Path) -> Iterator[str]:
    with serve(built_site) as address:
        yield address


@pytest.fixture(scope="session")
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
    """Everything that went wrong on a page: the test asserts that it is empty."""
    return []


Opener = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, origin: str, complaints: list[str]) -> Iterator[Opener]:
    """An opener of pages of the site: `open_page("01-explosion/", scheme="dark", size="phone")`."""
    contexts: list[BrowserContext] = []

    def opened(
        path: str, scheme: str = "light", size: str = "desktop", scripts: bool = True
    ) -> Page:
        context = browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport=SIZES[size],
            java_script_enabled=scripts,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        watch(page, origin, complaints)
        page.goto(path if "://" in path else f"{origin}/{path}", wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()


def watch(page: Page, origin: str, complaints: list[str]) -> None:
    """Write down errors, violations of the policy, failed requests, and those off the origin."""
    page.add_init_script(VIOLATIONS)
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda r: None if _left(r) else complaints.append(f"failed: {r.url}"))
    page.on(
        "response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None
    )
    ours = (origin, "data:", "file:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(ours) else complaints.append(r.url))


def _left(request: Request) -> bool:
    """Tell a request that ended because the page was left."""
    return "ERR_ABORTED" in (request.failure or "")
