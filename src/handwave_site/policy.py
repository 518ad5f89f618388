"""The content security policy of the built pages: only what the site itself brings may run or load.

Scripts that stand in a page are allowed by their digest, those of all pages on every page, since
instant navigation keeps the policy of the page that it began on. What no policy can allow
without allowing anything (styles and handlers in attributes, styles in the page) is an error, and
so is whatever a page would fetch from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handwave_site.cache import write_atomically

_CHARSET = '<meta charset="utf-8">'
_POLICY = (
    "default-src 'self'; script-src 'self'{scripts}; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; worker-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_INLINE = (
    ("//@style", "has a style attribute; give it a class, and the class a rule in a stylesheet"),
    ("//@*[starts-with(name(), 'on')]", "has a handler in an attribute; attach it in a script"),
    ("//style", "stands in the page; move its rules to a stylesheet"),
)
_FETCHED = (
    "//script/@src | //img/@src | //iframe/@src | //source/@src | //video/@src | //audio/@src"
    " | //embed/@src | //object/@data"
    " | //link[not(@rel='canonical' or @rel='prev' or @rel='next' or @rel='alternate')]/@href"
)
_NO_SCRIPT = "application/json"


@dataclass(frozen=True)
class _Page:
    name: str
    path: Path
    text: str
    tree: Any


def secure(site: Path) -> list[str]:
    """Put the policy into every page of a built site, before anything that it governs.

    Returns:
        What no policy can allow, by page; then nothing is written.
    """
    pages = _read(site)
    found = [problem for page in pages for problem in _problems(page)]
    if not found:
        meta = _meta(script for page in pages for script in _inline_scripts(page.tree))
        for page in pages:
            write_atomically(page.path, page.text.replace(_CHARSET, _CHARSET + meta, 1).encode())
    return found


def problems(site: Path) -> list[str]:
    """List what no policy can allow, by page; write nothing."""
    return [problem for page in _read(site) for problem in _problems(page)]


def _read(site: Path) -> list[_Page]:
    pages = []
    for path in sorted(site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        pages.append(_Page(path.relative_to(site).as_posix(), path, text, _parsed(text)))
    return pages


def _parsed(text: str) -> Any:
    from lxml import html  # noqa: PLC0415 - only a build needs it

    return html.document_fromstring(text.encode(), parser=html.HTMLParser(encoding="utf-8"))


def _problems(page: _Page) -> Iterator[str]:
    if _CHARSET not in page.text:
        yield f"{page.name}: no {_CHARSET} to put the policy behind; the theme must write one"
    for path, what in _INLINE:
        for found in page.tree.xpath(path):
            tag = found.getparent().tag if path.startswith("//@") else found.tag
            yield f"{page.name}: <{tag}> {what}"
    for link in page.tree.xpath(_FETCHED):
        if link.startswith("//") or urlsplit(link).scheme not in ("", "data"):
            tag = link.getparent().tag
            yield f"{page.name}: <{tag}> fetches {link}; bring the file into the site"


def _inline_scripts(tree: Any) -> Iterator[str]:
    for script in tree.xpath("//script[not(@src)]"):
        if script.get("type") != _NO_SCRIPT:
            yield script.text or ""


def _meta(scripts: Iterable[str]) -> str:
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    allowed = "".join(f" 'sha256-{digest}'" for digest in sorted(digests))
    policy = _POLICY.format(scripts=allowed)
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
