"""The pages need none of MkDocs' plugins to be read: its successor builds them as well.

Material for MkDocs names Zensical as what comes after it. Zensical reads the same mkdocs.yml, but
runs no plugin of ours, so formulas stay TeX there and an example's page is missing. All else that
a lesson says must be on its page.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lxml import html

from handwave_site.blocks import Page, read_page

pytest.importorskip("zensical", reason="zensical is not installed")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs/index.md", *sorted((ROOT / "docs").glob("[0-9][0-9]-*.md"))]
CODE = re.compile(r"^( *)```.*?^\1```$|`[^`]+`|<!--.*?-->", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?! )([^$]+?)(?<! )\$", re.DOTALL)


@pytest.fixture(scope="module")
def successor(tmp_path_factory: pytest.TempPathFactory, drawn_figures: Path) -> Path:
    """The site as Zensical builds it, strictly, from a copy of the pages and their figures."""
    root = tmp_path_factory.mktemp("zensical")
    for name in ("docs", "includes", "src/handwave"):  # the last for the API pages
        shutil.copytree(ROOT / name, root / name)
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    # Zensical knows MkDocs' tag !ENV, but not its tag !relative. It is started in this folder.
    config = config.replace("!relative $config_dir", ".")
    (root / "mkdocs.yml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    build = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[[\d;]*m", "", build.stdout + build.stderr)  # it colours each letter
    assert build.returncode == 0, said
    return root / "site"


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def source(request: pytest.FixtureRequest) -> Page:
    return read_page(request.param)


@pytest.fixture
def built(source: Page, successor: Path) -> Path:
    name = source.path.stem
    return successor / ("" if name == "index" else name) / "index.html"


@pytest.fixture
def article(built: Path) -> html.HtmlElement:
    (found,) = html.document_fromstring(built.read_bytes()).xpath("//article")
    return found


def test_each_block_and_each_output_stands_on_its_page(
    source: Page, article: html.HtmlElement
) -> None:
    shown = [pre.text_content().strip("\n") for pre in article.xpath(".//pre")]
    assert source.blocks
    for block in source.blocks:
        assert block.code.strip("\n") in shown, block.line
        if block.output is not None:
            assert block.output.text.strip("\n") in shown, block.output.first


def test_each_figure_is_shown_and_is_there(
    source: Page, built: Path, article: html.HtmlElement, successor: Path
) -> None:
    files = [(built.parent / link).resolve() for link in article.xpath(".//img/@src")]
    assert not [str(file) for file in files if not file.is_file()]
    for figure in (figure for block in source.blocks for figure in block.figures):
        assert (successor / figure.link).resolve() in files, figure.line


def test_each_formula_is_there_as_tex_or_as_mathml(source: Page, article: html.HtmlElement) -> None:
    shown = article.xpath(".//math | .//*[@class='arithmatex'][not(.//math)]")
    said = ["".join(found) for found in FORMULA.findall(CODE.sub("", source.text))]
    assert len(shown) == len(said)
    for tex, element in zip(said, shown, strict=True):
        if element.tag != "math":
            assert "".join(tex.split()) in "".join(element.text_content().split())


def test_what_the_glossary_explains_is_a_tooltip(article: html.HtmlElement) -> None:
    assert article.xpath(".//abbr/@title")
