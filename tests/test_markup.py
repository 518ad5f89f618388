"""A rendered page, finished."""

from __future__ import annotations

import re

from handwave_site.markup import with_byline, with_copy_buttons

BLOCK = '<div class="language-{} highlight"><pre><span></span><code>x</code></pre></div>'


def test_each_block_has_a_button_of_its_own_and_no_output_has_one() -> None:
    page = with_copy_buttons("".join(map(BLOCK.format, ("python", "text", "python", "console"))))
    labels = re.findall('aria-label="([^"]*)"', page)
    assert labels == ["Copy block 1", "Copy block 2", "Copy block 3"]
    for target in re.findall('data-clipboard-target="#([^ "]*) code"', page):
        assert f'highlight" id="{target}"><button' in page
    text = page.index("language-text")
    assert "button" not in page[text : page.index("</div>", text)]


def test_a_line_of_remarks_stands_under_the_title() -> None:
    page = with_byline("<h1>A</h1><p>B</p><h1>C</h1>", ["7 min read", "a link"])
    assert page == '<h1>A</h1>\n<p class="byline">7 min read · a link</p><p>B</p><h1>C</h1>'


def test_without_remarks_there_is_no_line() -> None:
    assert with_byline("<h1>A</h1>", []) == "<h1>A</h1>"
