"""The plugin, through `mkdocs build` and `mkdocs serve`, on a small real site."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handwave_site.blocks import MARKER

PAGE = """\
# A page

```python
print("value NUMBER")
open("a.svg", "w").write('PICTURE'.replace("123456", "NUMBER" * 6))
```

MARKER
```text
value NUMBER
```

![A square.](figures/index/a.svg)

Words and $x^2$.
"""


@pytest.fixture
def text(picture: str) -> Callable[[int], str]:
    def write(number: int) -> str:
        page = PAGE.replace("PICTURE", picture).replace("MARKER", MARKER)
        return page.replace("NUMBER", str(number))

    return write


def built(site: Any, page: str = "index.html") -> str:
    return (site.root / "site" / page).read_text(encoding="utf-8")


def test_a_built_page_shows_text_output_figure_with_size_and_formula(
    site: Any, text: Callable[[int], str]
) -> None:
    site.page(text(1))
    status, said = site.build()
    assert status == 0, said
    html = built(site)
    assert "value 1" in re.sub(r"<[^>]*>", "", html)
    (image,) = re.findall(r"<img[^>]*>", html)
    assert 'width="40"' in image
    assert 'height="30"' in image
    assert (site.root / "site/figures/index/a.svg").is_file()
    assert "<math" in html


def test_a_figure_in_a_box_and_on_a_page_in_a_folder_has_its_size_too(
    site: Any, text: Callable[[int], str]
) -> None:
    inside = "\n".join(f"    {line}" for line in text(1).splitlines()[2:13])
    site.page(f'# Home\n\n??? success "Answer"\n\n{inside}\n')
    site.page(text(1), "below/index.md")
    status, said = site.build()
    assert status == 0, said
    for page in ("index.html", "below/index.html"):
        assert 'height="30"' in built(site, page)
    assert (site.root / "site/below/figures/index/a.svg").is_file()


def test_without_the_plugin_pages_still_show_text_outputs_and_figures(
    site: Any, text: Callable[[int], str]
) -> None:
    site.page(text(1))
    assert site.run()[0] == 0
    site.configure(plugin=False)
    status, said = site.build()
    assert status == 0, said
    html = built(site)
    assert "value 1" in re.sub(r"<[^>]*>", "", html)
    assert '<img alt="A square." src="figures/index/a.svg"' in html
    assert (site.root / "site/figures/index/a.svg").is_file()
    assert "Words and" in html


def test_bad_tex_fails_the_build_and_is_named_by_page_and_line(site: Any, problems_in: Any) -> None:
    site.page("# Home\n\nGood $x$.\n\nBad $\\frac{1$.\n")
    site.page("# Other\n\n$$\n\\nonsense{x}\n$$\n", "other.md")
    status, said = site.build()
    assert status == 1
    named = {(page, line) for page, line, _ in problems_in(said)}
    assert named == {("docs/index.md", 5), ("docs/other.md", 4)}


def test_a_stale_page_does_not_build(site: Any, text: Callable[[int], str]) -> None:
    site.page(text(1))
    assert site.build()[0] == 0
    before = built(site)
    site.page(text(1).replace("\nvalue 1", "\nvalue 2"))
    assert site.build()[0] == 1
    assert built(site) == before


def test_a_build_with_nothing_to_do_runs_nothing(site: Any, text: Callable[[int], str]) -> None:
    site.page(text(1))
    assert "1 blocks run" in site.build()[1]
    assert "blocks run" not in site.build()[1]
    assert site.settle() == []


@pytest.mark.parametrize("option", [{"watch": ["nowhere"]}, {"matplotlibrc": "nowhere"}])
def test_a_path_that_leads_nowhere_is_named_in_a_line(site: Any, option: dict[str, Any]) -> None:
    site.page("# Home\n")
    site.options.update(option)
    site.configure()
    status, said = site.build()
    assert status == 1
    assert f"`{next(iter(option))}` in mkdocs.yml" in said


def test_two_builds_give_the_same_bytes(
    site: Any, text: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    site.page(text(1))
    seen = []
    for _ in range(2):
        shutil.rmtree(site.root / ".cache", ignore_errors=True)
        assert site.build()[0] == 0
        seen.append((built(site), (site.root / "site/figures/index/a.svg").read_bytes()))
    assert seen[0] == seen[1]


class Served:
    """A site while `mkdocs serve` runs, as a browser and the log see it."""

    def __init__(self, address: str, log: Callable[[], str]) -> None:
        self.address = address
        self.log = log

    def page(self) -> str:
        with urllib.request.urlopen(f"http://{self.address}/", timeout=5) as answer:
            return re.sub(r"<[^>]*>", "", answer.read().decode())

    def builds(self) -> int:
        return self.log().count("Building documentation")

    def wait(self, wanted: str, patience: float = 20) -> None:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            try:
                if wanted in self.page():
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{wanted!r} never came; the log: {self.log()}")


@pytest.fixture
def served(site: Any, text: Callable[[int], str]) -> Iterator[Served]:
    site.page(text(1))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    path = site.root / "log"
    with path.open("w") as log:
        process = site.start("mkdocs", "serve", "--dev-addr", address, stderr=log)
        try:
            found = Served(address, lambda: path.read_text(encoding="utf-8"))
            found.wait("value 1")
            yield found
        finally:
            process.terminate()
            process.communicate(timeout=20)
    assert site.settle() == []


def test_one_edit_while_serving_causes_one_build_that_shows_outputs_and_problems(
    site: Any, text: Callable[[int], str], served: Served
) -> None:
    figure = site.docs / "figures/index/a.svg"
    before = figure.read_bytes()
    first = served.builds()
    edited = text(1).replace("value 1", "value 2", 1).replace('"1" * 6', '"2" * 6')
    site.page(edited)
    served.wait("This page does not say what its blocks say")
    page = served.page()
    assert "value 2" in page.split("Words and")[0]  # as the block prints it now
    assert "the page says &#39;value 1&#39;" in page.replace("'", "&#39;")
    assert figure.read_bytes() != before
    time.sleep(1.5)  # another build would have begun by now
    assert served.builds() - first == 1

    site.page(text(3))
    served.wait("value 3")
    assert "This page does not say" not in served.page()
    site.page(text(3).replace('print("value', '1 / 0\nprint("value'))
    served.wait("ZeroDivisionError")


def test_the_options_are_those_of_the_command(site: Any) -> None:
    site.page("# Home\n\n```python\nwhile True:\n    pass\n```\n")
    site.options["time_limit"] = 0.5
    site.configure()
    assert json.loads(site.config.read_text())["plugins"][0]["handwave_site"]["time_limit"] == 0.5
    for status, said in (site.run(), site.build()):
        assert status == 1
        assert "longer than 0.5 s" in said
