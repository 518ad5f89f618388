"""Pages are brought up to date: outputs compared and rewritten, figures written, quotes held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handwave_site.blocks import MARKER
from handwave_site.pages import find_pages

DRAW = 'from pathlib import Path\nPath("a.svg").write_text(SVG)'


def page(code: str, below: str = "") -> str:
    return f"# A\n\n```python\n{code}\n```\n{below}\nWords.\n"


def output(text: str) -> str:
    return f"\n{MARKER}\n```text\n{text}```\n"


def test_update_writes_a_missing_output_and_nothing_else(site: Any) -> None:
    path = site.page(page("print(1.5)"))
    assert site.run()[0] == 1
    status, shown, _ = site.command("update", "docs")
    assert status == 0
    assert path.read_text(encoding="utf-8") == page("print(1.5)", output("1.5\n"))
    assert "+1.5" in shown
    assert site.command("update", "docs")[:2] == (0, "")


def test_update_replaces_a_stale_output_and_removes_one_of_silence(site: Any) -> None:
    path = site.page(page("print(1.5)", output("1.4\nmore\n")) + page("x = 1", output("x\n")))
    assert site.command("update", "docs")[0] == 0
    assert path.read_text(encoding="utf-8") == page("print(1.5)", output("1.5\n")) + page(
        "x = 1", ""
    )


def test_update_keeps_indentation_and_line_ends(site: Any) -> None:
    text = '??? success "Answer"\n\n    ```python\n    print(1.5)\n    ```\n\nWords.\n'
    path = site.page(text.replace("\n", "\r\n"))
    path.chmod(0o640)
    assert site.command("update", "docs")[0] == 0
    written = path.read_bytes().decode()
    assert f"    ```\r\n\r\n    {MARKER}\r\n    ```text\r\n    1.5\r\n    ```\r\n" in written
    assert written.count("\n") == written.count("\r\n")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("bad", "reason"),
    [("1 / 0", "ZeroDivisionError"), ("print('```')", "an output ends with"), ("x = (", "Syntax")],
)
def test_update_changes_no_byte_of_a_page_with_a_failing_block(
    site: Any, bad: str, reason: str
) -> None:
    text = page("print(1.5)", output("1.4\n")) + page(bad)
    path = site.page(text)
    other = site.page(page("print(2.5)"), "other.md")
    status, _, said = site.command("update", "docs")
    assert status == 1
    assert reason in said
    if "```" not in bad:
        assert path.read_text(encoding="utf-8") == text
        assert "docs/index.md: left as it is" in said
    assert other.read_text(encoding="utf-8") == page("print(2.5)", output("2.5\n"))


def test_update_writes_through_a_link_to_the_page(site: Any) -> None:
    real = site.root / "real.md"
    real.write_text(page("print(1.5)"), encoding="utf-8")
    (site.docs / "index.md").symlink_to(real)
    assert site.command("update", "docs")[0] == 0
    assert (site.docs / "index.md").is_symlink()
    assert "1.5\n```\n" in real.read_text(encoding="utf-8")


def test_update_names_a_quoted_number_that_is_stale_now(site: Any, problems_in: Any) -> None:
    site.page(page("print(1.5)", output("1.4\n")) + "\nIt is *1.4*{.measured}.\n")
    status, _, said = site.command("update", "docs")
    assert status == 1
    ((where, line, message),) = problems_in(said)
    assert (where, line) == ("docs/index.md", 14)
    assert "1.4" in message


def test_a_page_named_twice_is_one_page(site: Any) -> None:
    site.page(page("print(1.5)"))
    assert site.command("update", "docs", "docs/index.md", str(site.docs))[0] == 0
    assert site.run()[0] == 0


def test_prose_runs_nothing_and_going_back_runs_nothing(site: Any) -> None:
    path = site.page(page("print(1.5)", output("1.5\n")))
    assert "1 blocks run" in site.run()[1]
    path.write_text(path.read_text(encoding="utf-8") + "\nMore.\n", encoding="utf-8")
    assert site.run() == (0, "")
    site.page(page("print(2.5)", output("2.5\n")))
    assert "1 blocks run" in site.run()[1]
    site.page(page("print(1.5)", output("1.5\n")))
    assert site.run() == (0, "")


def test_a_figure_no_longer_drawn_is_deleted(site: Any, picture: str) -> None:
    drawn = DRAW.replace("SVG", repr(picture))
    site.page(page(drawn, "\n![A dot.](figures/index/a.svg)\n"))
    assert site.run()[0] == 0
    assert (site.docs / "figures/index/a.svg").is_file()
    site.page("# Nothing\n")
    assert site.run()[0] == 0
    assert not (site.docs / "figures/index/a.svg").exists()


def test_figures_are_written_only_when_their_bytes_differ(site: Any, picture: str) -> None:
    drawn = DRAW.replace("SVG", repr(picture))
    site.page(page(drawn, "\n![A dot.](figures/index/a.svg)\n"))
    site.run()
    before = (site.docs / "figures/index/a.svg").stat().st_mtime_ns
    site.command("run", "--no-cache", "docs")
    assert (site.docs / "figures/index/a.svg").stat().st_mtime_ns == before


def test_hidden_files_are_no_pages_and_other_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    (tmp_path / ".#a.md").symlink_to("nowhere")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/b.md").touch()
    assert find_pages([tmp_path]) == [tmp_path / "a.md"]
    (tmp_path / "c.markdown").touch()
    with pytest.raises(ValueError, match=r"c\.markdown: not a Markdown page"):
        find_pages([tmp_path])


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.md").touch()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/link").symlink_to(tmp_path / "real")
    assert find_pages([tmp_path / "docs"]) == [tmp_path / "docs/link/a.md"]


@pytest.mark.parametrize("named", [["nowhere"], ["a.txt"], ["empty"]])
def test_what_is_no_page_is_a_misuse_named_in_a_line(site: Any, named: list[str]) -> None:
    (site.root / "a.txt").touch()
    (site.root / "empty").mkdir()
    status, said = site.run(*named)
    assert status == 2
    assert "Traceback" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["last line ended", "last line open"])
def test_update_leaves_every_other_byte_alone(site: Any, end: str, last: bool) -> None:
    text = page("print(1.5)", output("1.4\n")) + "\nMore.\n\n```python\nprint(2.5)\n```\n"
    text = text if last else text.removesuffix("\n")
    path = site.page(text.replace("\n", end))
    assert site.command("update", "docs")[0] == 0
    wanted = text.replace("1.4", "1.5").removesuffix("\n") + "\n" + output("2.5\n")
    wanted = wanted if last else wanted.removesuffix("\n")
    assert path.read_bytes().decode() == wanted.replace("\n", end)
    assert site.run()[0] == 0


def test_update_refuses_a_page_that_changed_while_its_blocks_ran(site: Any) -> None:
    change = f"from pathlib import Path\nPath({str(site.docs / 'index.md')!r}).write_text('mine')"
    path = site.page(page(f"{change}\nprint(1.5)"))
    status, _, said = site.command("update", "docs")
    assert status == 2
    assert "changed while its blocks ran; run update again" in said
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_watched_file_makes_every_result_stale_and_back_none(tmp_path: Path, site: Any) -> None:
    source = site.root / "src"
    source.mkdir()
    (source / "a.py").write_text("x = 1", encoding="utf-8")
    site.options["watch"] = ["src"]
    site.configure()
    site.page(page("print(1.5)", output("1.5\n")))
    assert "1 blocks run" in site.run()[1]
    assert site.run() == (0, "")
    (source / "a.py").write_text("x = 2", encoding="utf-8")
    assert "1 blocks run" in site.run()[1]
    (source / "a.py").write_text("x = 1", encoding="utf-8")
    assert site.run() == (0, "")


def test_a_source_that_changes_during_a_run_spoils_its_results(site: Any) -> None:
    source = site.root / "src"
    source.mkdir()
    site.options["watch"] = ["src"]
    site.configure()
    site.page(page(f"from pathlib import Path\nPath({str(source / 'a.py')!r}).touch()"))
    assert "1 blocks run" in site.run()[1]
    assert "1 blocks run" in site.run()[1]
    assert site.run() == (0, "")


def test_a_failure_is_never_kept(site: Any) -> None:
    site.page(page("1 / 0"))
    for _ in range(2):
        status, said = site.run()
        assert status == 1
        assert "1 blocks run" in said
    assert site.kept() == {}


def test_a_difference_is_shown_where_it_begins_blanks_included(site: Any, problems_in: Any) -> None:
    site.page(page("print('a')\nprint('b ')", output("a\nb\n")))
    ((_, line, message),) = problems_in(site.run()[1])
    assert line == 11
    assert "the page says 'b', the block prints 'b '" in message


def test_figures_stand_in_the_order_saved(site: Any, picture: str, problems_in: Any) -> None:
    save = "open('{}.svg', 'w').write(SVG)".replace("SVG", repr(picture))
    code = f"import time\n{save.format('a')}\ntime.sleep(0.05)\n{save.format('b')}"
    shown = "\n![A.](figures/index/{}.svg)\n\n![B.](figures/index/{}.svg)\n"
    site.page(page(code, shown.format("b", "a")))
    ((_, line, message),) = problems_in(site.run()[1])
    assert line == 10
    assert message == "show the figures in the order saved: a.svg, b.svg"
    site.page(page(code, shown.format("a", "b")))
    assert site.run()[0] == 0
