"""The grammar of a page: what belongs to what, and what is refused, line by line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handwave_site import blocks
from handwave_site.blocks import MARKER, Figure, Page, Problem, Quote, read_page

PAGE = Path("docs/page.md")


def read(text: str) -> Page:
    return read_page(PAGE, textwrap.dedent(text).replace("MARKER", MARKER))


def found(text: str) -> list[tuple[int, str]]:
    """The problems of a page, by line."""
    return [(problem.line, problem.message) for problem in read(text).problems]


def only_problem(text: str) -> tuple[int, str]:
    problems = found(text)
    assert len(problems) == 1, problems
    return problems[0]


WHOLE = """\
# Title

```python
print(1)
```

MARKER
```text
1
```

![One.](figures/page/one.svg)

![Two.](figures/page/two.svg)

It prints *1.0*{.measured}.

```python
pass
```
"""


def test_a_block_owns_the_output_and_the_figures_below_it():
    page = read(WHOLE)
    assert page.problems == []
    first, second = page.blocks
    assert (first.line, first.last, first.indent, first.code) == (3, 5, 0, "print(1)\n")
    assert first.output == blocks.Output(marker=7, first=8, last=10, text="1\n")
    assert [figure.name for figure in first.figures] == ["one.svg", "two.svg"]
    assert first.figures[0] == Figure(12, "One.", "figures/page/one.svg")
    assert (second.line, second.output, second.figures) == (18, None, [])
    assert page.quotes == [Quote(16, "1.0")]


def test_a_problem_is_written_as_page_line_and_remedy():
    assert str(Problem(Path("docs/03-sums.md"), 41, "do so")) == "docs/03-sums.md:41: do so"


def test_problems_come_in_the_order_of_their_lines():
    lines = [line for line, _ in found("*1.5*{.mesured}\n\n```py\n```\n\n*1.5*{.mesured}\n")]
    assert lines == [1, 3, 6]


@pytest.mark.parametrize(
    ("opening", "indent"),
    [('??? success "Answer"', 4), ("- A point", 2), ("1. A step", 3), ('=== "One"', 4)],
)
def test_a_block_may_stand_indented_below_a_box_a_list_or_a_tab(opening: str, indent: int):
    inside = "\n" + WHOLE[WHOLE.index("```python") : WHOLE.index("\n\nIt prints")]
    page = read(f"{opening}\n" + textwrap.indent(inside, " " * indent) + "\n\nIt was *1.0*.\n")
    assert page.problems == []
    (block,) = page.blocks
    assert (block.line, block.indent, block.code) == (3, indent, "print(1)\n")
    assert block.output is not None
    assert block.output.text == "1\n"
    assert len(block.figures) == 2


def test_the_indentation_inside_an_indented_block_is_kept():
    (block,) = read("- A\n\n  ```python\n  if 1:\n      pass\n  ```\n").blocks
    assert block.code == "if 1:\n    pass\n"


def test_blank_lines_in_an_indented_block_are_kept_so_that_lines_stay_true():
    (block,) = read("- A\n\n  ```python\n  a = 1\n\n  b = 2\n  ```\n").blocks
    assert block.code == "a = 1\n\nb = 2\n"


def test_blank_lines_in_an_indented_output_are_refused_since_pytest_codeblocks_loses_them():
    text = "- A\n\n  ```python\n  print(1)\n  ```\n\n  MARKER\n  ```text\n  1\n\n  2\n  ```\n"
    assert only_problem(text) == (
        8,
        "pytest-codeblocks loses blank lines in an indented output; print none here",
    )


def test_blank_lines_in_an_output_at_the_margin_are_part_of_it():
    page = read("```python\nprint()\n```\n\nMARKER\n```text\n1\n\n2\n```\n")
    assert page.problems == []
    assert page.blocks[0].output is not None
    assert page.blocks[0].output.text == "1\n\n2\n"


def test_an_output_is_indented_as_its_block_is():
    text = "- A\n\n  ```python\n  print(1)\n  ```\n\n  MARKER\n    ```text\n    1\n    ```\n"
    line, message = only_problem(text)
    assert line == 8
    assert "indented as its block" in message


def test_a_figure_is_indented_as_its_block_is():
    line, message = only_problem("```python\n```\n\n  ![A.](figures/page/a.svg)\n")
    assert (line, message) == (4, "indent this figure as its block at line 1 is")


@pytest.mark.parametrize("lead", ["\t", "  \t", " \t "])
def test_a_block_indented_with_tabs_is_refused(lead: str):
    line, message = found(f"- A\n\n{lead}```python\n{lead}pass\n{lead}```\n")[0]
    assert line == 3
    assert "indent with spaces" in message


# Fences


@pytest.mark.parametrize(
    "info",
    [
        "py", "py3", "python3", "python2", "Python", "PYTHON", "pycon", "ipython", "pyhton",
        " python", "python ", 'python title="a"', "python hl_lines='1'", "python:", "python,a",
        "{.python}", "{ .python }", "{.python #id}", "{#id .python}", "{ #id .py hl_lines=1 }",
        "{python}", "{lang=python}",
    ],
)  # fmt: skip
def test_python_that_would_not_run_is_refused(info: str):
    line, message = only_problem(f"```{info}\nraise ValueError\n```\n")
    assert line == 1
    assert message == f"```{info} is never run; write ```python, with nothing after it"


@pytest.mark.parametrize("info", ["", "text", "console", "yaml", 'json title="python"', "markdown"])
def test_other_fences_are_left_alone(info: str):
    page = read(f"```{info}\nraise ValueError\n```\n")
    assert (page.blocks, page.problems) == ([], [])


@pytest.mark.parametrize("info", ["sh", "bash", "{.bash}", "{ .sh }"])
def test_a_shell_fence_is_refused_since_pytest_codeblocks_runs_it(info: str):
    line, message = only_problem(f"words\n\n```{info}\nfalse\n```\n")
    assert line == 3
    assert "```console instead" in message


@pytest.mark.parametrize("info", ["", "python", "text"])
def test_tildes_are_refused(info: str):
    assert only_problem(f"~~~{info}\nx\n~~~\n") == (
        1,
        "a ~~~ fence is never run; write ``` instead",
    )


def test_python_in_a_block_quote_is_refused():
    line, message = only_problem("> ```python\n> raise ValueError\n> ```\n")
    assert (line, message) == (1, "a Python block in a block quote is never run; move it out")


@pytest.mark.parametrize("bullet", ["-", "*", "+", "1.", "2)"])
@pytest.mark.parametrize("ticks", ["```", "~~~", "````"])
def test_a_fence_beside_its_bullet_is_refused(bullet: str, ticks: str):
    assert found(f"{bullet} {ticks}python\n  raise ValueError\n  {ticks}\n")[0] == (
        1,
        "a fence begins on a line of its own, indented below its bullet",
    )


def test_the_grammar_is_shown_in_a_four_backtick_markdown_fence():
    shown = f"````markdown\n```python\nprint(1)\n```\n\n{MARKER}\n```text\n1\n```\n````\n"
    page = read(shown + WHOLE)
    assert page.problems == []
    assert [block.line for block in page.blocks] == [13, 28]


@pytest.mark.parametrize("info", ["python", "text", "", "markdown title='a'"])
def test_four_backticks_are_for_nothing_else(info: str):
    line, message = only_problem(f"````{info}\nraise ValueError\n````\n")
    assert line == 1
    assert "four backticks" in message


def test_a_block_inside_a_longer_fence_of_three_backticks_is_refused():
    problems = found("```text\n```python\npass\n```\n```\n")
    assert problems[0][0] == 2
    assert "four-backtick markdown fence" in problems[0][1]


@pytest.mark.parametrize("fence", ["```python", "```text", "````markdown", "  ```python"])
def test_an_open_fence_is_named_with_its_first_line(fence: str):
    assert (3, "this fence is never closed; add its closing line") in found(f"a\n\n{fence}\nb\n")


@pytest.mark.parametrize("closing", ["````", "``` ", "  ```", "```x", "> ```"])
def test_a_fence_ends_as_it_began(closing: str):
    problems = found(f"```python\npass\n{closing}\n")
    if closing == "``` ":  # blanks that nobody sees do no harm
        assert problems == []
    else:
        assert problems[0][0] == 3
        assert "ends with" in problems[0][1]


def test_code_on_the_fence_line_is_refused():
    assert "must not hold backticks" in found("```python print(1)```\n\n```\n")[0][1]


def test_a_block_that_asks_for_its_name_is_refused():
    text = '```python\nif __name__ == "__main__":\n    raise ValueError\n```\n'
    line, message = only_problem(text)
    assert line == 1
    assert "at its top level" in message


@pytest.mark.parametrize("text", ["type(1).__name__x", "my__name__"])
def test_names_that_only_resemble_it_are_not(text: str):
    assert found(f"```python\n{text}\n```\n") == []


# Markers and comments


@pytest.mark.parametrize(
    "marker",
    [
        "skipfile", "skip", "cont", "importorskip(torhc)", "importorskip(torch)", "skipif(True)",
        "expect-error", "expected-output-ignore-whitespace", "expected-outptu", "",
    ],
)  # fmt: skip
def test_no_other_word_of_pytest_codeblocks_is_allowed(marker: str):
    text = f"<!--pytest-codeblocks:{marker}-->"
    line, message = only_problem(f"\n{text}\n```python\nraise ValueError\n```\n")
    assert line == 2
    assert message == f"'{text}' is not a marker that a page may hold; the only one is {MARKER}"


@pytest.mark.parametrize(
    "comment",
    [
        "<!--pytest.mark.xfail-->", "<!-- pytest.mark.skip -->", "<!--- cont --->", "<!--cont-->",
        "<!-- pytest-codeblocks:expected-output -->", "<!---pytest-codeblocks:expected-output-->",
        "<!--codeblocks:expected-output-->", "<!--pytest-codeblocks:expected-output",
        "<!-pytest-codeblocks:expected-output-->", "!--pytest-codeblocks:expected-output-->",
    ],
)  # fmt: skip
def test_a_misspelt_marker_is_refused(comment: str):
    problems = found(f"```python\nprint(1)\n```\n\n{comment}\n```text\n1\n```\n")
    assert any(line == 5 and "the only one is" in message for line, message in problems)


def test_a_comment_may_say_anything_else():
    text = "<!-- We continue later, to be\ncontinued.\n\n![](nothing.png) -->\n\nWords.\n"
    assert found(text) == []


def test_a_block_inside_a_comment_is_refused():
    assert found("<!--\n```python\nprint(1)\n```\n-->\n")[0] == (
        2,
        "a fence inside an HTML comment is still run; delete the block",
    )


def test_a_comment_that_never_ends_is_refused_since_readers_see_what_nothing_checks():
    line, message = only_problem("a\n\n<!-- so\n\n*1.5*{.measured}\n")
    assert (line, message) == (3, "this comment is never closed; end it with -->")


def test_words_beside_a_comment_are_refused_since_nothing_checks_them():
    line, message = only_problem("<!-- so --> it was *1.5*{.measured}\n")
    assert line == 1
    assert "give it its own line" in message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("MARKER\n```text\n1\n```\n", 1),
        ("```text\n1\n```\n\nMARKER\n```text\n1\n```\n", 5),
        ("```python\nprint(1)\n```\n\nWords.\n\nMARKER\n```text\n1\n```\n", 7),
        ("```python\n```\n\n![A.](figures/page/a.svg)\n\nMARKER\n```text\n1\n```\n", 6),
    ],
    ids=["first", "after another fence", "after words", "after a figure"],
)
def test_a_marker_directly_follows_its_block(text: str, line: int):
    problems = found(text)
    assert problems[0][0] == line
    assert "does not directly follow a Python block" in problems[0][1]


def test_a_block_has_one_output():
    twice = "```python\nprint(1)\n```\n" + 2 * "\nMARKER\n```text\n1\n```\n"
    assert found(twice)[0] == (10, "the block at line 1 has an output fence already")


def test_a_marker_without_a_fence_is_refused():
    line, message = only_problem("```python\nprint(1)\n```\n\nMARKER\n\n")
    assert line == 5
    assert "no output fence follows" in message


@pytest.mark.parametrize("info", ["", "python", "console", "text title='a'", "Text"])
def test_an_output_stands_in_a_text_fence(info: str):
    problems = found(f"```python\nprint(1)\n```\n\nMARKER\n```{info}\n1\n```\n")
    assert any(line == 6 and "```text" in message for line, message in problems)


def test_a_text_fence_without_its_marker_is_refused_since_nothing_checks_it():
    line, message = only_problem("```python\npass\n```\n\n```text\n1\n```\n")
    assert line == 5
    assert f"write {MARKER} above it" in message


def test_a_text_fence_with_words_before_it_claims_nothing():
    assert found("```python\npass\n```\n\nA table:\n\n```text\n1\n```\n") == []


# Figures


@pytest.mark.parametrize(
    "link",
    ["figures/other/a.svg", "figures/a.svg", "figures/page/a.png", "figures/page/b/a.svg"],
)
def test_a_figure_lies_in_the_folder_of_its_page(link: str):
    line, message = only_problem(f"```python\n```\n\n![A.]({link})\n")
    assert (line, message) == (4, f"link {link!r}: expected figures/page/<name>.svg")


@pytest.mark.parametrize(
    "line",
    [
        "See ![A.](figures/page/a.svg)",
        "![A.](figures/page/a.svg) as shown",
        "![A.](./figures/page/a.svg)",
        "![A.][a]\n[a]: figures/page/a.svg",
        '<img src="figures/page/a.svg" alt="A.">',
        '![A.](figures/page/a.svg "a title")',
        "![A.](<figures/page/a.svg>)",
        "[![A.](figures/page/a.svg)](figures/page/a.svg)",
    ],
)
def test_a_figure_stands_alone_on_its_line(line: str):
    problems = found(f"```python\n```\n\n{line}\n")
    assert any("a figure stands alone on its line" in message for _, message in problems)


def test_a_figure_may_have_attributes():
    page = read('```python\n```\n\n![A.](figures/page/a.svg){ width="300" }\n')
    assert page.problems == []
    assert page.blocks[0].figures[0].name == "a.svg"


def test_words_between_block_and_figure_part_them():
    line, message = only_problem("```python\n```\n\nWords.\n\n![A.](figures/page/a.svg)\n")
    assert (line, message) == (6, "no block directly above draws a.svg; put it under one")


@pytest.mark.parametrize("alt", ["", " ", "  "])
def test_a_figure_says_what_is_to_be_seen(alt: str):
    line, message = only_problem(f"```python\n```\n\n![{alt}](figures/page/a.svg)\n")
    assert (line, message) == (4, "a.svg has no alt text; say what is to be seen in it")


def test_so_does_every_other_picture():
    assert only_problem("Words ![](assets/a.png) words.\n")[0] == 1


def test_two_figures_of_one_name_are_refused_since_one_would_overwrite_the_other():
    twice = 2 * "```python\n```\n\n![A.](figures/page/a.svg)\n\n"
    assert only_problem(twice) == (9, "a.svg is shown at line 4 already")


# Quoted numbers


def test_a_number_shown_as_code_is_not_a_quote():
    page = read("Write `*783.3*{.measured}` or ``*1.5*{.mesured}``.\n")
    assert (page.quotes, page.problems) == ([], [])


def test_several_numbers_may_stand_in_one_line():
    page = read("| *1.50*{.measured} | *−2.5*{.measured} |\n")
    assert page.quotes == [Quote(1, "1.50"), Quote(1, "−2.5")]


@pytest.mark.parametrize(
    "text",
    [
        r"$v_{\text{measured}}$", "{.note}", "*so*{.small}", r"$\sigma_{measured}$",
        "as it was measured.", "[a](b){.button}",
    ],
)  # fmt: skip
def test_other_braces_are_left_alone(text: str):
    assert found(f"{text}\n") == []


# The file


def test_front_matter_is_skipped():
    page = read("---\ntitle: A *1.5*{.mesured}\n---\n" + WHOLE)
    assert page.problems == []
    assert [block.line for block in page.blocks] == [6, 21]


def test_windows_line_ends_are_read_as_any_other(tmp_path: Path):
    path = tmp_path / "page.md"
    path.write_bytes(WHOLE.replace("MARKER", MARKER).replace("\n", "\r\n").encode())
    page = read_page(path)
    assert page.problems == []
    assert [(block.line, block.code) for block in page.blocks] == [
        (3, "print(1)\n"),
        (18, "pass\n"),
    ]


def test_a_page_that_is_not_utf_8_is_refused(tmp_path: Path):
    path = tmp_path / "page.md"
    path.write_bytes("Varianz groß\n".encode("latin-1"))
    (problem,) = read_page(path).problems
    assert problem.line == 1
    assert "save it as UTF-8" in problem.message


def test_an_empty_page_is_a_page(tmp_path: Path):
    path = tmp_path / "page.md"
    path.touch()
    assert read_page(path).problems == []


# Against pytest-codeblocks


def theirs(text: str) -> list[tuple[int, str, str | None]]:
    import io

    from pytest_codeblocks import extract_from_buffer

    found = extract_from_buffer(io.StringIO(text))
    return [(b.lineno, b.code, b.expected_output) for b in found if b.syntax == "python"]


def test_what_pytest_codeblocks_finds_is_what_is_found_here():
    text = WHOLE.replace("MARKER", MARKER)
    assert [
        (block.line, block.code, block.output.text if block.output else None)
        for block in read(text).blocks
    ] == theirs(text)


def test_a_block_that_only_pytest_codeblocks_finds_is_refused():
    text = "\u00a0```python\npass\n\u00a0```\n"
    assert theirs(text)
    line, message = only_problem(text)
    assert line == 1
    assert "reads this block in another way" in message


def test_a_block_that_pytest_codeblocks_reads_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    other: dict[int, tuple[list[str], str | None]] = {
        3: (["print(1)"], "2\n"),
        18: (["pass"], None),
    }
    monkeypatch.setattr(blocks, "_pytest_codeblocks", lambda page: other)
    line, message = only_problem(WHOLE)
    assert line == 3
    assert "reads this block in another way" in message


def test_a_block_that_pytest_codeblocks_does_not_find_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocks, "_pytest_codeblocks", lambda page: {3: (["print(1)"], "1\n")})
    assert only_problem(WHOLE)[0] == 18


# On any text

PIECES = st.sampled_from(
    [
        "```python", "```", "```text", "````markdown", "````", "~~~", "> ```python", "  ```python",
        "  ```", "\t```python", "- ```python", "print(1)", "  print(1)", MARKER, f"  {MARKER}",
        "![A.](figures/page/a.svg)", "![](figures/page/b.svg)", "*1.5*{.measured}", "*1*{.mesurd}",
        "<!--", "-->", "<!-- x -->", "---", "words", "", " ", "\u00a0```python", "``` python", "\r",
        "```python\r", "<!--pytest-codeblocks:cont-->", "\ufeff```python", "```py", "\x0c```python",
    ]
)  # fmt: skip
PAGES = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=14).map("\n".join)


@settings(deadline=None, max_examples=300)
@given(PAGES)
def test_any_text_is_read_without_an_error(text: str):
    page = read_page(PAGE, text)
    count = text.count("\n") + 1
    assert all(1 <= problem.line <= count for problem in page.problems)


@settings(deadline=None, max_examples=300)
@given(PAGES)
def test_a_page_without_problems_holds_exactly_the_blocks_of_pytest_codeblocks(text: str):
    page = read_page(PAGE, text)
    if not page.problems:
        assert [block.line for block in page.blocks] == [line for line, _, _ in theirs(text)]


FENCES = st.sampled_from(["```python", "  ```python", "```py", "``` {.python}", "~~~python"])
WORDS = PAGES.filter(lambda text: not {"`", "~"} & set(text) and not text.startswith("---"))


@settings(deadline=None, max_examples=200)
@given(WORDS, FENCES, PAGES)
def test_no_python_fence_is_passed_over(before: str, fence: str, after: str):
    indent = fence[: len(fence) - len(fence.lstrip())]
    text = f"{before}\n{fence}\n{indent}x = 1\n{indent}{fence.strip()[:3]}\n{after}"
    page = read_page(PAGE, text)
    line = before.count("\n") + 2
    assert line in {problem.line for problem in page.problems} | {b.line for b in page.blocks}
