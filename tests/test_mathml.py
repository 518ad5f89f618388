"""Formulas become MathML at build, or say what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from handwave_site import mathml
from handwave_site.mathml import MathRenderer


@pytest.fixture
def math(tmp_path: Path) -> MathRenderer:
    return MathRenderer(tmp_path / "math")


def test_a_formula_is_well_formed_mathml(math: MathRenderer) -> None:
    tex = r"\mathrm{Var}(y) = \sum_{i=1}^{n} x_i^2 = \sqrt{n}"
    root = ElementTree.fromstring(math.render(tex, display=True))
    assert root.tag == "math"
    assert root.get("display") == "block"
    assert {"msqrt", "munderover", "msubsup"} <= {element.tag for element in root.iter()}


def test_a_formula_within_a_line_is_not_displayed(math: MathRenderer) -> None:
    assert 'display="block"' not in math.render("n", display=False)


def test_bad_tex_is_quoted_with_its_reason(math: MathRenderer) -> None:
    with pytest.raises(ValueError, match=r"bad TeX '\\\\nonsense\{n\}': .*\\nonsense"):
        math.render(r"\nonsense{n}", display=False)


def test_bad_tex_leaves_nothing_behind(math: MathRenderer) -> None:
    with pytest.raises(ValueError, match="bad TeX"):
        math.render(r"\frac{1", display=True)
    assert not math.folder.exists()


def test_a_formula_is_rendered_once(math: MathRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = math.render("a^2", display=False)
    monkeypatch.setattr(mathml, "_render", lambda *_: pytest.fail("rendered again"))
    assert math.render("a^2", display=False) == first


def test_a_style_becomes_a_class_whose_rule_stands_in_the_stylesheet(math: MathRenderer) -> None:
    html = math.render(r"\color{red}x", display=True)
    assert "style=" not in html
    root = ElementTree.fromstring(html)
    for element, rule in ((root, "display:block math"), (root[0][0], "color:#ff0000")):
        name = element.get("class", "").split()[-1]
        assert f".{name}.{name}{{{rule}}}" in math.stylesheet()
    assert root.get("class", "").startswith("tml-display ")


def test_the_stylesheet_knows_formulas_that_were_kept(math: MathRenderer) -> None:
    math.render("x", display=True)
    again = MathRenderer(math.folder)
    again.render("x", display=True)
    assert again.stylesheet() == math.stylesheet() != ""
