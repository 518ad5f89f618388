"""The figures in a real browser: nothing cut off, nothing too small to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PHONE_COLUMN = 343  # px: a phone's 375 less the margins
SMALLEST = 11  # px

CUT = """() => {
    const all = document.documentElement.getBoundingClientRect();
    return [...document.querySelectorAll("text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < all.left - 1 || box.right > all.right + 1
            || box.top < all.top - 1 || box.bottom > all.bottom + 1;
    }).map(text => text.textContent);
}"""
SIZES = """() => [...document.querySelectorAll("text, tspan")]
    .filter(text => [...text.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .map(text => [text.textContent, parseFloat(getComputedStyle(text).fontSize)])"""
UNIT = """() => {
    const svg = document.documentElement;
    return [svg.width.baseVal.value, svg.viewBox.baseVal.width];
}"""


def figures(site: Path) -> list[str]:
    found = sorted(site.glob("figures/**/*.svg")) + sorted(site.glob("examples/**/*.svg"))
    return [path.relative_to(site).as_posix() for path in found]


def test_no_figure_cuts_its_text_off(open_page: Any, built_site: Path) -> None:
    assert len(figures(built_site)) >= 30
    page, cut = open_page("figures/01-explosion/explosion.svg"), {}
    origin = page.url.removesuffix("figures/01-explosion/explosion.svg")
    for figure in figures(built_site):
        page.goto(origin + figure)
        cut[figure] = page.evaluate(CUT)
    assert not {figure: texts for figure, texts in cut.items() if texts}


def test_text_in_figures_is_large_enough_on_a_phone(open_page: Any, built_site: Path) -> None:
    page, small = open_page("figures/01-explosion/explosion.svg"), []
    origin = page.url.removesuffix("figures/01-explosion/explosion.svg")
    for figure in figures(built_site):
        page.goto(origin + figure)
        _, units = page.evaluate(UNIT)
        for text, size in page.evaluate(SIZES):
            shown = size * PHONE_COLUMN / units
            if shown < SMALLEST:
                small.append(f"{figure}: {text!r} is {shown:.1f} px")
    assert not small
