"""A rendered page, finished: a button that copies each block, a line below the title."""

from __future__ import annotations

import itertools
import re

_BLOCK = re.compile(
    r'<div class="(?P<kind>language-(?:python|console) highlight)">'
    r"(?P<start><pre><span></span><code>)"
)
_BUTTON = (
    '<button class="md-code__button copy" title="Copy" aria-label="Copy block {number}"'
    ' data-clipboard-target="#block-{number} code" data-md-type="copy"></button>'
)


def with_copy_buttons(html: str) -> str:
    """Give each block of code, and no output, a button that copies it."""
    count = itertools.count(1)

    def button(block: re.Match[str]) -> str:
        number = next(count)
        div = f'<div class="{block["kind"]}" id="block-{number}">'
        return div + _BUTTON.format(number=number) + block["start"]

    return _BLOCK.sub(button, html)


def with_byline(html: str, parts: list[str]) -> str:
    """Put a line of short remarks under a page's title."""
    if not parts:
        return html
    return html.replace("</h1>", f'</h1>\n<p class="byline">{" · ".join(parts)}</p>', 1)
