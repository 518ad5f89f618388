"""Formulas in a real browser."""

from __future__ import annotations

from typing import Any


def test_nothing_is_left_free_behind_a_root(open_page: Any) -> None:
    page = open_page("questions/")
    page.wait_for_load_state("networkidle")
    # Of √2: the sign itself has 0.794 of the font's size, the digit stands behind it.
    free = page.evaluate(
        """async () => {
            await document.fonts.ready;
            const root = [...document.querySelectorAll("msqrt")].find(r => r.textContent === "2");
            const size = parseFloat(getComputedStyle(root).fontSize);
            const inner = root.firstElementChild.getBoundingClientRect().width;
            return root.getBoundingClientRect().width / size - inner / size - 0.794;
        }"""
    )
    assert abs(free) < 0.02
