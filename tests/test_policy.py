"""The policy: on every page, before what it governs, and no page that it could not govern."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from handwave_site import policy

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A</title>
<link rel="stylesheet" href="a.css"><script>{script}</script></head>
<body><script id="c" type="application/json">{{"a": 1}}</script><p>Words.</p></body></html>
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    (tmp_path / "index.html").write_text(PAGE.format(script="let a = 1 && 2"), encoding="utf-8")
    (tmp_path / "below/index.html").write_text(PAGE.format(script="b()"), encoding="utf-8")
    return tmp_path


def plant(site: Path, markup: str) -> None:
    page = site / "below/index.html"
    page.write_text(page.read_text().replace("<p>", markup + "<p>"), encoding="utf-8")


def digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def test_every_page_begins_with_the_same_policy(site: Path) -> None:
    assert policy.secure(site) == []
    found = set()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        found |= set(
            re.findall('<meta charset="utf-8">(<meta http-equiv="Content-Sec[^>]*>)', text)
        )
        assert text.index("Content-Security-Policy") < text.index("<link")
        assert text.index("Content-Security-Policy") < text.index("<script")
    (meta,) = found
    for part in (
        "default-src 'self'",
        "base-uri 'self'",
        "form-action 'self'",
        "object-src 'none'",
    ):
        assert part in meta
    assert "unsafe" not in meta


def test_scripts_of_all_pages_are_allowed_and_data_is_no_script(site: Path) -> None:
    policy.secure(site)
    text = (site / "index.html").read_text(encoding="utf-8")
    assert set(re.findall("sha256-([^']*)", text)) == {digest("let a = 1 && 2"), digest("b()")}


@pytest.mark.parametrize(
    ("markup", "said"),
    [
        ('<i style="color:red">a</i>', "<i> has a style attribute"),
        ('<i title="a > b" style="color:red">a</i>', "<i> has a style attribute"),
        ('<button onclick="a()">a</button>', "<button> has a handler"),
        ("<style>p{color:red}</style>", "<style> stands in the page"),
        ('<script src="https://cdn.example/a.js"></script>', "<script> fetches https://cdn.ex"),
        ('<img alt="a" src="//elsewhere.example/a.png">', "<img> fetches //elsewhere"),
        ('<link rel="stylesheet" href="https://fonts.example/a.css">', "<link> fetches https://f"),
        ('<iframe src="https://video.example/"></iframe>', "<iframe> fetches"),
    ],
)
def test_what_no_policy_can_allow_is_named_and_nothing_is_written(
    site: Path, markup: str, said: str
) -> None:
    plant(site, markup)
    before = {page: page.read_bytes() for page in site.rglob("*.html")}
    (problem,) = policy.secure(site)
    assert problem.startswith(f"below/index.html: {said}")
    assert policy.problems(site) == [problem]
    assert {page: page.read_bytes() for page in site.rglob("*.html")} == before


@pytest.mark.parametrize(
    "markup",
    [
        '<img alt="a" src="data:image/png;base64,AAAA">',
        '<a href="https://example.org/">elsewhere</a>',
        '<link rel="canonical" href="https://example.org/">',
        "<code>&lt;i style=&quot;a&quot;&gt; onclick=</code>",
    ],
)
def test_links_and_code_that_is_shown_are_nobodys_business(site: Path, markup: str) -> None:
    plant(site, markup)
    assert policy.secure(site) == []


def test_a_page_without_a_place_for_the_policy_is_named(site: Path) -> None:
    (site / "odd.html").write_text("<p>No head.</p>", encoding="utf-8")
    (problem,) = policy.secure(site)
    assert problem.startswith('odd.html: no <meta charset="utf-8">')


def test_a_build_fails_for_what_its_pages_bring_in(site: Path, make_site: object) -> None:
    built = make_site(policy=True)  # type: ignore[operator]
    built.page('# Home\n\n<i style="color:red">red</i>\n')
    built.configure(theme="material")
    status, said = built.build()
    assert status == 1
    assert "index.html: <i> has a style attribute; give it a class" in said
