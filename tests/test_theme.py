"""What the site adds to Material's page, on a small site of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lxml import html

REPOSITORY = "https://github.com/someone/something"
ASKING = '# Two\n\n!!! question "Why two?"\n    Guess.\n'


@pytest.fixture(scope="module")
def pages(make_site: Any) -> dict[str, html.HtmlElement]:
    """Three pages and an example, built with everything configured that may be."""
    site = make_site(policy=True, examples="examples")
    (site.root / "examples").mkdir()
    (site.root / "examples/study.py").write_text("# %% [markdown]\n# # Study\n", encoding="utf-8")
    site.page("---\ntitle: Home\ndescription: The first page.\n---\n\n# Home\n")
    site.page(ASKING, "two.md")
    site.page("# Three\n", "three.md")
    site.configure(
        theme="material",
        site_url="https://someone.example/something/",
        site_description="A site of three pages.",
        repo_url=REPOSITORY,
        edit_uri=f"{REPOSITORY}/edit/main/docs/",
        extra={"preview": "preview.png"},
        plugins=[
            "search",
            {"handwave_site": site.options},
            {"mkdocs-jupyter": {"execute": False, "ignore": ["*.md", "*.py"]}},
        ],
        nav=["index.md", "two.md", "three.md", "examples/study.ipynb"],
    )
    text = site.config.read_text().replace(
        '{"name": "material"}',
        '{"name": "material", "font": false, "features": ["content.action.edit"]}',
    )
    site.config.write_text(text)
    status, said = site.build()
    assert status == 0, said
    built = site.root / "site"
    return {
        path.relative_to(built).as_posix(): html.document_fromstring(path.read_bytes())
        for path in built.rglob("*.html")
    }


def test_the_way_on_says_what_the_next_page_asks(pages: dict[str, Any]) -> None:
    (link,) = pages["index.html"].xpath("//nav[@class='turn md-grid']/a")
    assert link.get("href") == "two/"
    assert link.xpath("string(.//*[@class='turn__question'])") == "Why two?"
    previous, following = pages["two/index.html"].xpath("//nav[@class='turn md-grid']/a")
    assert (previous.get("rel"), following.get("rel")) == ("prev", "next")
    assert not following.xpath(".//*[@class='turn__question']")


@pytest.mark.parametrize(
    ("page", "name", "content"),
    [
        ("index.html", "og:title", "Home"),
        ("index.html", "og:description", "The first page."),
        ("two/index.html", "og:title", "Two"),
        ("two/index.html", "og:description", "A site of three pages."),
        ("two/index.html", "og:url", "https://someone.example/something/two/"),
        ("two/index.html", "og:image", "https://someone.example/something/preview.png"),
    ],
)
def test_a_link_to_a_page_has_a_preview(
    pages: dict[str, Any], page: str, name: str, content: str
) -> None:
    (found,) = pages[page].xpath("//meta[@property=$name]/@content", name=name)
    assert found == content


def test_the_repository_is_linked_and_not_asked(pages: dict[str, Any]) -> None:
    for page in pages.values():
        assert page.xpath("//a[@href=$url]", url=REPOSITORY)
        assert not page.xpath("//*[@data-md-component='source']")


def test_each_page_leads_to_its_source(pages: dict[str, Any]) -> None:
    edited = {name: page.xpath("//a[@rel='edit']/@href") for name, page in pages.items()}
    assert edited["two/index.html"] == [f"{REPOSITORY}/edit/main/docs/two.md"]
    assert edited["examples/study/index.html"] == [f"{REPOSITORY}/edit/main/examples/study.py"]


def test_a_missing_page_says_so_and_leads_home(pages: dict[str, Any]) -> None:
    page = pages["404.html"]
    assert page.xpath("string(//h1)") == "This page vanished"
    assert page.xpath("//article//a/@href") == ["/something/"]


def test_the_search_has_a_name(pages: dict[str, Any]) -> None:
    for page in pages.values():
        assert page.xpath("//*[@role='dialog']/@aria-label") == ["Search"]


def test_another_theme_is_left_as_it_is(site: Any) -> None:
    site.page("# Home\n")
    status, said = site.build()
    assert status == 0, said
    assert "turn__link" not in Path(site.root / "site/index.html").read_text(encoding="utf-8")
