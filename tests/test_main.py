"""`python -m handwave_site`: what it says, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from handwave_site.__main__ import main
from handwave_site.blocks import MARKER

GOOD = f"# A\n\n```python\nprint(1.5)\n```\n\n{MARKER}\n```text\n1.5\n```\n"


def test_a_run_with_nothing_to_do_prints_nothing(site: Any) -> None:
    site.page(GOOD)
    status, out, said = site.command("run", "docs")
    assert (status, out) == (0, "")
    assert "1 blocks run, slowest docs/index.md:3 " in said
    assert site.command("run", "docs") == (0, "", "")


def test_no_cache_runs_every_block(site: Any) -> None:
    site.page(GOOD)
    for _ in range(2):
        assert "1 blocks run" in site.command("run", "--no-cache", "docs")[2]


def test_problems_of_all_pages_are_named_in_order(site: Any, problems_in: Any) -> None:
    site.page(GOOD.replace("\n1.5", "\n1.6") + "\n```py\n```\n", "b.md")
    site.page(GOOD.replace("\n1.5", "\n1.6"), "a.md")
    site.page(GOOD, "c.md")
    status, said = site.run()
    assert status == 1
    places = [(page, line) for page, line, _ in problems_in(said)]
    assert list(dict.fromkeys(places)) == [("docs/a.md", 9), ("docs/b.md", 12)]


def test_files_and_folders_may_be_named(site: Any) -> None:
    site.page(GOOD)
    (site.root / "README.md").write_text(GOOD.replace("1.5", "2.5"), encoding="utf-8")
    assert "2 blocks run" in site.run("README.md", "docs")[1]
    assert site.run("README.md") == (0, "")


def test_a_block_that_two_pages_hold_is_run_for_each_and_kept_once(site: Any) -> None:
    site.page(GOOD)
    site.page(GOOD, "other.md")
    assert site.run()[0] == 0
    assert list(site.kept()) == ["1.5\n"]


def test_update_shows_what_it_changes(site: Any) -> None:
    site.page(GOOD.replace("\n1.5", "\n1.4"))
    status, out, _ = site.command("update", "docs")
    assert status == 0
    assert out.splitlines()[:2] == ["--- docs/index.md", "+++ docs/index.md"]
    assert "-1.4" in out.splitlines()
    assert "+1.5" in out.splitlines()


def test_update_leaves_a_page_that_its_grammar_forbids(site: Any, problems_in: Any) -> None:
    text = GOOD.replace("\n1.5", "\n1.4") + "\n```py\n```\n"
    path = site.page(text)
    status, out, said = site.command("update", "docs")
    assert (status, out) == (1, "")
    assert problems_in(said)[0][:2] == ("docs/index.md", 12)
    assert "docs/index.md: left as it is, until the above is mended" in said
    assert path.read_text(encoding="utf-8") == text


def test_another_configuration_may_be_named(site: Any, tmp_path: Any) -> None:
    site.page(GOOD)
    assert main(["--config-file", str(site.config), "run", str(site.docs)]) == 0
    assert (site.root / ".cache").is_dir()


def test_a_missing_configuration_is_a_misuse(site: Any) -> None:
    site.page(GOOD)
    site.config.unlink()
    status, said = site.run()
    assert status == 2
    assert "mkdocs.yml: no such file; run from the folder of mkdocs.yml" in said


def test_a_wrong_option_is_a_misuse(site: Any) -> None:
    site.page(GOOD)
    site.options["time_limit"] = "soon"
    site.configure()
    status, said = site.run()
    assert status == 2
    assert "time_limit" in said


@pytest.mark.parametrize("arguments", [[], ["run"], ["write", "docs"]])
def test_wrong_arguments_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m handwave_site" in capsys.readouterr().err


def test_it_starts_without_importing_torch_or_a_notebook_tool() -> None:
    code = "import sys, handwave_site.__main__, handwave_site.plugin\n"
    slow = "{'torch', 'matplotlib', 'lxml', 'jupytext', 'nbformat', 'quickjs', 'pytest', 'tqdm'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print({slow} & sys.modules.keys())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
