"""The one tracked figure, docs/assets/opening.svg, is the one that Home draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def test_the_readme_shows_the_picture_that_home_draws(drawn_figures: Path) -> None:
    tracked = (ROOT / "docs/assets/opening.svg").read_text(encoding="utf-8")
    drawn = (drawn_figures / "index/opening.svg").read_text(encoding="utf-8")
    assert NUMBER.sub("#", tracked) == NUMBER.sub("#", drawn)
    there, here = (list(map(float, NUMBER.findall(text))) for text in (tracked, drawn))
    assert here == pytest.approx(there, abs=0.1, rel=0)
