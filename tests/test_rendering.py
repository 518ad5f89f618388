"""What the site adds to Markdown: sizes of pictures, formulas."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown import Markdown

from handwave_site.mathml import MathRenderer
from handwave_site.rendering import SiteExtension

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="442" height="278"></svg>'


class Renderer:
    def __init__(self, folder: Path) -> None:
        self.wrong: list[tuple[str, str]] = []
        report = lambda tex, message: self.wrong.append((tex, message))  # noqa: E731
        self.extension = SiteExtension(MathRenderer(folder / "math"), report)
        self.extension.begin(folder / "page.md")
        arithmatex = {"pymdownx.arithmatex": {"generic": True}}
        self.markdown = Markdown(
            extensions=["pymdownx.arithmatex", self.extension], extension_configs=arithmatex
        )

    def __call__(self, text: str) -> str:
        return self.markdown.convert(text)


@pytest.fixture
def render(tmp_path: Path) -> Renderer:
    (tmp_path / "figures/page").mkdir(parents=True)
    (tmp_path / "figures/page/a.svg").write_text(SVG, encoding="utf-8")
    return Renderer(tmp_path)


def test_a_figure_says_its_size(render: Renderer) -> None:
    html = render("![a line](figures/page/a.svg)")
    assert 'width="442"' in html
    assert 'height="278"' in html
    assert 'class="figure"' in html


def test_a_picture_alone_is_a_numbered_figure_that_opens_large(render: Renderer) -> None:
    html = render("![a line](figures/page/a.svg)\n\nWords.\n\n![b](figures/page/a.svg)")
    assert html.count('<figure><a class="opens" href="figures/page/a.svg"><img alt="a line"') == 1
    assert re.findall("<figcaption>(.*?)</figcaption>", html) == [
        "Figure 1, drawn by the block above",
        "Figure 2, drawn by the block above",
    ]


def test_a_picture_among_words_has_a_size_and_no_caption(render: Renderer) -> None:
    html = render("See ![a line](figures/page/a.svg) here.")
    assert 'width="442"' in html
    assert "figcaption" not in html


def test_a_picture_that_is_not_ours_stays_as_it_is(render: Renderer) -> None:
    assert "width" not in render("![a line](https://example.org/a.svg) ![b](figures/page/b.svg)")


def test_formulas_become_mathml(render: Renderer) -> None:
    html = render("The root $\\sqrt{n}$.\n\n$$\nx^2\n$$\n")
    assert html.count("<math") == 2
    assert "msqrt" in html
    assert 'display="block"' in html
    assert "\\" not in html


def test_bad_tex_is_reported_with_its_text(render: Renderer) -> None:
    render("So $\\wrong$ it is.")
    ((tex, message),) = render.wrong
    assert tex == r"\wrong"
    assert "bad TeX" in message


def test_alignment_and_comparison_signs_survive_in_display(render: Renderer) -> None:
    html = render("$$\n\\begin{aligned} a &= b \\\\ c &< d \\end{aligned}\n$$\n")
    assert not render.wrong
    assert html.count("<mtd") == 4
    assert "amp;=" not in html
