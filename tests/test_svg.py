"""One SVG for both colour schemes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from handwave_site.svg import DARK_BACKGROUND, in_the_dark, size, two_schemes

PALETTE = ["#000000", "#dddddd", "#0b62a8", "#c2410c", "#147d4f", "#7c3aad", "#8a6100", "#5b6470"]


def draw() -> bytes:
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.semilogy([1, 10, 100], label="a line")
    axes.fill_between([0, 1, 2], [1, 1, 1], [2, 20, 200], alpha=0.3)
    axes.set_title("Title with √n")
    axes.legend()
    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    return file.getvalue()


@pytest.fixture(scope="module")
def picture() -> str:
    return two_schemes(draw())


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance, written from the definition."""
    total = 0.0
    for weight, i in ((0.2126, 1), (0.7152, 3), (0.0722, 5)):
        c = int(colour[i : i + 2], 16) / 255
        total += weight * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
    return total


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_no_colour_is_left_outside_the_variables(picture: str) -> None:
    style = picture[picture.index("<style>") : picture.index("</style>")]
    assert not re.search(r"#[0-9a-fA-F]{3,6}\b", picture.replace(style, "").replace('="#', "="))
    rules = re.sub(r":root\{[^}]*\}", "", style)
    assert "#" not in rules
    assert "style=" not in picture


def test_every_variable_has_a_light_and_a_dark_value(picture: str) -> None:
    light, dark = re.findall(r":root\{([^}]*)\}", picture)[:2]
    names = [re.findall(r"--c\d+", part) for part in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--c\d+)\)", picture)) == set(names[0])
    assert "@media(prefers-color-scheme:dark)" in picture


@pytest.mark.parametrize("colour", PALETTE)
def test_a_colour_stands_out_from_the_dark_as_it_did_from_white(colour: str) -> None:
    wanted = min(contrast(colour, "#ffffff"), 13)
    assert contrast(in_the_dark(colour), DARK_BACKGROUND) == pytest.approx(wanted, rel=0.03)


def test_white_becomes_the_dark_background() -> None:
    assert in_the_dark("#ffffff") == DARK_BACKGROUND


def test_text_stays_text_and_is_never_black_on_black(picture: str) -> None:
    assert "Title with √n" in picture
    ink = re.search(r"svg\{fill:var\((--c\d+)\)\}", picture)
    assert ink
    dark = re.findall(r":root\{([^}]*)\}", picture)[1]
    assert contrast(dict(p.split(":") for p in dark.split(";") if p)[ink[1]], DARK_BACKGROUND) > 7


def test_the_same_figure_gives_the_same_bytes(picture: str) -> None:
    assert two_schemes(draw()) == picture  # its ids, its date and its creator are gone
    assert "matplotlib" not in picture.lower()
    assert "metadata" not in picture


def test_another_process_draws_the_same_bytes(picture: str) -> None:
    import os
    import subprocess
    import sys

    code = (
        "import pathlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_svg\n"
        "sys.stdout.buffer.write(test_svg.two_schemes(test_svg.draw()).encode())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.decode()
        for seed in ("1", "2")
    }
    assert seen == {picture}


def test_references_still_lead_somewhere(picture: str) -> None:
    ids = set(re.findall(r' id="([^"]+)"', picture))
    used = set(re.findall(r"url\(#([^)]+)\)", picture)) | set(
        re.findall(r'href="#([^"]+)"', picture)
    )
    assert used == ids


def test_a_picture_drawn_by_hand_says_its_size_too() -> None:
    drawn = b'<svg xmlns="http://www.w3.org/2000/svg" height="30pt" id="a" width="40px"/>'
    assert size(two_schemes(drawn)) == (40, 40)


def test_it_is_well_formed_and_says_its_size_in_pixels(picture: str) -> None:
    root = ElementTree.fromstring(picture)
    assert (root.get("width"), root.get("height")) == ("384", "288")
    assert size(picture) == (384, 288)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no",
        b"<html/>",
        b'<svg xmlns="x" width="1" height="1"/>',
        b'<svg xmlns="http://www.w3.org/2000/svg" width="1"/>',
        b'<svg xmlns="http://www.w3.org/2000/svg" height="1"/>',
    ],
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an SVG picture"):
        two_schemes(content)


TICK = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt"><g><text>'
    '<tspan x="0" y="-0.9" style="font-size: 10px">1</tspan>'
    '<tspan x="6.4" y="-0.9" style="font-size: 10px">0</tspan>'
    '<tspan x="12.8" y="-4.8" style="font-size: 7px">−</tspan>'
    '<tspan x="18.7" y="-4.8" style="font-size: 7px">3</tspan>{more}</text></g></svg>'
)


def test_an_exponent_is_written_in_characters_of_one_size() -> None:
    found = two_schemes(TICK.format(more="").encode())
    assert re.search(r'<text [^>]*x="23\.15"[^>]*>10⁻³</text>', found)
    assert "7px" not in found
    assert "text-anchor:end" in found


def test_other_raised_text_stays_as_it_is() -> None:
    more = '<tspan x="20" y="-4.8" style="font-size: 7px">k</tspan>'
    assert two_schemes(TICK.format(more=more).encode()).count("<tspan") == 5
