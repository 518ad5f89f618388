"""The grammar of a page: its Python blocks, the output and the figures that belong to each.

A page is plain Markdown. This file reads it line by line, names every block by its line, and
refuses, with a remedy, whatever pytest-codeblocks would silently skip or run in another way.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

MARKER = "<!--pytest-codeblocks:expected-output-->"

_FENCE = re.compile(r"^(?P<lead>[ \t>]*)(?P<ticks>`{3,}|~{3,})(?P<info>.*)$")
_IMAGE = re.compile(r"^(?P<lead> *)!\[(?P<alt>.*)\]\((?P<link>[^()\s]*)\)(?:\{[^}]*\})?\s*$")
_MEASURED = re.compile(r"(?<![*\w])\*(?P<number>[^*\s][^*]*)\*\{\.measured\}")
_ATTRIBUTES = re.compile(r"(?P<star>\*\s*)?\{(?P<inside>[^{}]*)\}?|(?<!\w)\.measured\b")
_INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_PYTHON = ("py", "ipy")  # what a language of Python starts with, and misspelt ones too
_LISTED_FENCE = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+(?:`{3,}|~{3,})")
_SHELL = {"sh", "bash"}
_MARKER_WORDS = re.compile(r"pytest|codeblock|expected|skip|xfail|<!--[-\s]*cont[-\s]*-->")


@dataclass(frozen=True)
class Problem:
    """Something on a page that must not be published, and what to do about it."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path.as_posix()}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Output:
    """What a page says that a block prints: the fence's lines, first and last included."""

    marker: int
    first: int
    last: int
    text: str


@dataclass(frozen=True)
class Figure:
    """A picture that a page shows under the block that draws it."""

    line: int
    alt: str
    link: str

    @property
    def name(self) -> str:
        """The file's name, as the block saves it."""
        return self.link.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Quote:
    """A number in the prose that claims to come from an output of its page."""

    line: int
    number: str


@dataclass
class Block:
    """A whole program on a page, and what the page says that it prints and draws."""

    path: Path
    line: int
    last: int
    indent: int
    code: str
    output: Output | None = None
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Page:
    """One Markdown file, read: its blocks, its quoted numbers, and what is wrong with it."""

    path: Path
    text: str
    blocks: list[Block] = field(default_factory=list)
    quotes: list[Quote] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def report(self, line: int, message: str) -> None:
        """Add a problem at a line of this page."""
        self.problems.append(Problem(self.path, line, message))


@dataclass(frozen=True)
class _Fence:
    """A fenced block of any kind, lines counted from 1, the fence lines included."""

    first: int
    last: int
    indent: int
    ticks: str
    info: str
    body: str
    quoted: bool

    @property
    def words(self) -> list[str]:
        """The words that may name its language: the first, and in braces each."""
        words = re.findall(r"[^\s{}.,:=]+", self.info.lower())
        return words if "{" in self.info else words[:1]

    @property
    def is_block(self) -> bool:
        return self.ticks == "```" and self.info == "python" and not self.quoted


@dataclass(frozen=True)
class _Line:
    """A line outside every fence."""

    number: int
    text: str
    commented: bool = False


def read_page(path: Path, text: str | None = None) -> Page:
    """Read one page and check its grammar.

    Args:
        path: the Markdown file; problems name it as it is given here.
        text: its text, where the caller holds it already.

    Returns:
        The page. `page.problems` lists all that its grammar forbids; a page with problems must
        not be run.
    """
    if text is None:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            page = Page(path, "")
            page.report(1, f"this page is not UTF-8 ({error.reason}); save it as UTF-8")
            return page
    page = Page(path, text)
    parts = list(_parts(page))
    _collect(page, parts)
    _check_names(page)
    _compare_with_pytest_codeblocks(page)
    page.problems.sort(key=lambda problem: problem.line)
    return page


def _parts(page: Page) -> Iterator[_Fence | _Line]:
    """Cut a page into fences and the lines between them."""
    lines = page.text.split("\n")
    number, commented, comment = _skip_front_matter(lines), False, 0
    while number < len(lines):
        text = lines[number]
        number += 1
        opening = _FENCE.match(text)
        if not opening:
            if not commented and text.lstrip().startswith("<!--"):
                commented, comment = True, number
            yield _Line(number, text, commented)
            commented = commented and "-->" not in text
            continue
        if commented:
            page.report(number, "a fence inside an HTML comment is still run; delete the block")
        last = _closing_line(lines, number, opening["ticks"])
        if last is None:
            page.report(number, "this fence is never closed; add its closing line")
            return
        yield _fence(page, opening, number, last, lines[number : last - 1])
        _check_closing(page, opening, last, lines[last - 1])
        number = last
    if commented:
        page.report(comment, "this comment is never closed; end it with -->")


def _skip_front_matter(lines: list[str]) -> int:
    if lines[0].strip() != "---":
        return 0
    ends = (i for i, line in enumerate(lines[1:], 1) if line.strip() in ("---", "..."))
    return next(ends, -1) + 1


def _closing_line(lines: list[str], start: int, ticks: str) -> int | None:
    """Find the line, counted from 1, that pytest-codeblocks takes for the end of a fence."""
    for i in range(start, len(lines)):
        if lines[i].lstrip(" \t>").startswith(ticks):
            return i + 1
    return None


def _check_closing(page: Page, opening: re.Match[str], line: int, text: str) -> None:
    if text.rstrip() != opening["lead"] + opening["ticks"]:
        page.report(
            line,
            f"a fence opened as {opening[0].strip()!r} ends with {text.strip()!r}; end it with"
            f" {opening['ticks']} alone, indented as its first line; to show a fence, put it in"
            " a four-backtick markdown fence",
        )


def _fence(page: Page, opening: re.Match[str], first: int, last: int, body: list[str]) -> _Fence:
    lead = opening["lead"]
    fence = _Fence(
        first,
        last,
        indent=len(lead),
        ticks=opening["ticks"],
        info=opening["info"],
        body="".join(_dedent(line, len(lead)) + "\n" for line in body),
        quoted=">" in lead,
    )
    message = _refusal(fence, lead)
    if message:
        page.report(first, message)
    return fence


def _dedent(line: str, indent: int) -> str:
    return line[min(indent, len(line) - len(line.lstrip())) :]


def _refusal(fence: _Fence, lead: str) -> str | None:
    """Say why a fence is forbidden, or None."""
    is_python = any(word.startswith(_PYTHON) for word in fence.words)
    return _refusal_of_any(fence) or (_refusal_of_python(fence, lead) if is_python else None)


def _refusal_of_any(fence: _Fence) -> str | None:
    if "~" in fence.ticks:
        return "a ~~~ fence is never run; write ``` instead"
    if "`" in fence.info:
        return "a fence's first line must not hold backticks again; give the code its own lines"
    shells = _SHELL.intersection(fence.words)
    if shells:
        return f"a {shells.pop()} fence is run by pytest-codeblocks; write ```console instead"
    if fence.ticks != "```" and fence.info != "markdown":
        return "four backticks are for a markdown fence that shows the grammar; use three"
    return None


def _refusal_of_python(fence: _Fence, lead: str) -> str | None:
    if fence.quoted:
        return "a Python block in a block quote is never run; move it out"
    if "\t" in lead:
        return "a Python block indented with tabs is read in two ways; indent with spaces"
    if not fence.is_block:
        return f"```{fence.info} is never run; write ```python, with nothing after it"
    if re.search(r"\b__name__\b", fence.body):
        return "a block is a whole program; put what stands under __name__ at its top level"
    return None


def _collect(page: Page, parts: list[_Fence | _Line]) -> None:
    """Give each block its output and its figures; check the prose between."""
    owner: Block | None = None  # the block that an output or a figure here would belong to
    marker: int | None = None
    for part in parts:
        if isinstance(part, _Fence):
            owner, marker = _take_fence(page, part, owner, marker)
        elif part.text.strip() == MARKER:
            _check_marker(page, part, owner, marker)
            marker = part.number
        elif part.text.strip():
            if marker is not None:
                page.report(marker, "only blank lines may stand between marker and output fence")
                marker = None
            owner = _take_line(page, part, owner)
    if marker is not None:
        page.report(marker, "no output fence follows this marker; delete it, and run `make update`")


def _take_fence(
    page: Page, fence: _Fence, owner: Block | None, marker: int | None
) -> tuple[Block | None, int | None]:
    if marker is not None and owner is not None:
        _take_output(page, fence, owner, marker)
        return owner, None
    if fence.is_block:
        block = Block(page.path, fence.first, fence.last, fence.indent, fence.body)
        page.blocks.append(block)
        return block, None
    if owner is not None and fence.info == "text" and not owner.figures:
        page.report(
            fence.first,
            f"this text fence follows the block at line {owner.line} without a marker, so"
            f" nothing checks it; write {MARKER} above it, or words between the two",
        )
    return None, None


def _take_output(page: Page, fence: _Fence, owner: Block, marker: int) -> None:
    if fence.info != "text" or fence.ticks != "```" or fence.indent != owner.indent:
        page.report(fence.first, "an output stands in a ```text fence, indented as its block is")
    if owner.indent and any(not line.strip() for line in fence.body.split("\n")[:-1]):
        page.report(
            fence.first,
            "pytest-codeblocks loses blank lines in an indented output; print none here",
        )
    owner.output = Output(marker, fence.first, fence.last, fence.body)


def _check_marker(page: Page, line: _Line, owner: Block | None, marker: int | None) -> None:
    if owner is None or owner.figures:
        page.report(
            line.number,
            "this marker does not directly follow a Python block; only blank lines may stand"
            " between block and marker",
        )
    elif owner.output is not None or marker is not None:
        page.report(line.number, f"the block at line {owner.line} has an output fence already")


def _take_line(page: Page, line: _Line, owner: Block | None) -> Block | None:
    """Check one line of prose; return the block that the next line could belong to."""
    image = _IMAGE.match(line.text)
    if image and image["link"].startswith("figures/"):
        _take_figure(page, line, image, owner)
        return owner
    if line.commented:
        _check_comment(page, line)
        return None
    if _LISTED_FENCE.match(line.text):
        page.report(line.number, "a fence begins on a line of its own, indented below its bullet")
    if difflib.SequenceMatcher(None, line.text.strip(), MARKER).ratio() > 0.8:
        _check_comment(page, line)
    prose = _INLINE_CODE.sub(lambda code: " " * len(code[0]), line.text)
    if "figures/" in prose:
        page.report(line.number, "a figure stands alone on its line, as ![…](figures/…/….svg)")
    if re.search(r"!\[\s*\]", prose):
        page.report(line.number, "this picture has no alt text; say what is to be seen in it")
    _take_quotes(page, line.number, prose)
    return None


def _take_figure(page: Page, line: _Line, image: re.Match[str], owner: Block | None) -> None:
    figure = Figure(line.number, image["alt"], image["link"])
    folder = f"figures/{page.path.stem}/"
    if owner is None:
        page.report(line.number, f"no block directly above draws {figure.name}; put it under one")
        return
    if not figure.alt.strip():
        page.report(line.number, f"{figure.name} has no alt text; say what is to be seen in it")
    if figure.link != folder + figure.name or not figure.name.endswith(".svg"):
        page.report(line.number, f"link {figure.link!r}: expected {folder}<name>.svg")
    if len(image["lead"]) != owner.indent:
        page.report(line.number, f"indent this figure as its block at line {owner.line} is")
    owner.figures.append(figure)


def _check_comment(page: Page, line: _Line) -> None:
    text = line.text.strip().lower()
    alike = difflib.SequenceMatcher(None, text, MARKER).ratio() > 0.6
    if alike or _MARKER_WORDS.search(text):
        page.report(
            line.number,
            f"{line.text.strip()!r} is not a marker that a page may hold; the only one is {MARKER}",
        )
    if line.text.rpartition("-->")[2].strip() and "-->" in line.text:
        page.report(line.number, "nothing checks words beside a comment; give it its own line")


def _take_quotes(page: Page, number: int, prose: str) -> None:
    found = list(_MEASURED.finditer(prose))
    page.quotes.extend(Quote(number, match["number"]) for match in found)
    rest = _MEASURED.sub("", prose)
    for match in _ATTRIBUTES.finditer(rest):
        if match["inside"] is None or _resembles_the_mark(match["inside"], bool(match["star"])):
            page.report(number, f"{match[0]!r}: a quoted number is written *783.3*{{.measured}}")


def _resembles_the_mark(attributes: str, after_emphasis: bool) -> bool:
    words = re.findall(r"[.#]?[\w-]+", attributes.lower())
    return any(
        difflib.SequenceMatcher(None, word.lstrip("."), "measured").ratio() > 0.7
        for word in words
        if after_emphasis or word.startswith(".")
    )


def _check_names(page: Page) -> None:
    """Refuse two figures of one name: the second would overwrite the first."""
    seen: dict[str, int] = {}
    for figure in (figure for block in page.blocks for figure in block.figures):
        if figure.name in seen:
            page.report(figure.line, f"{figure.name} is shown at line {seen[figure.name]} already")
        seen.setdefault(figure.name, figure.line)


def _compare_with_pytest_codeblocks(page: Page) -> None:
    """Hold what was found here against what pytest-codeblocks finds, block by block."""
    if page.problems:
        return  # what is wrong already has a better message
    ours = {block.line: (_solid(block.code), _text(block)) for block in page.blocks}
    theirs = _pytest_codeblocks(page)
    for line in sorted(ours.keys() | theirs.keys()):
        if ours.get(line) != theirs.get(line):
            page.report(
                line,
                "pytest-codeblocks reads this block in another way; look for an unusual fence,"
                " marker or indentation here and above",
            )


def _text(block: Block) -> str | None:
    return None if block.output is None else block.output.text


def _solid(code: str) -> list[str]:
    # pytest-codeblocks 0.18 drops the blank lines of an indented block.
    return [line for line in code.split("\n") if line.strip()]


@functools.cache
def _their_reader() -> ModuleType:
    # The package's __init__ imports all of pytest (0.2 s); its reader needs nothing of it.
    package = importlib.util.find_spec("pytest_codeblocks")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("pytest-codeblocks is missing; pip install 'handwave[site]'")
    file = Path(package.origin).with_name("main.py")
    spec = importlib.util.spec_from_file_location("_pytest_codeblocks_main", file)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _pytest_codeblocks(page: Page) -> dict[int, tuple[list[str], str | None]]:
    try:
        found = _their_reader().extract_from_buffer(io.StringIO(page.text), max_num_lines=10**9)
    except RuntimeError as error:
        page.report(1, f"pytest-codeblocks cannot read this page: {error}")
        return {}
    return {
        block.lineno: (_solid(block.code), block.expected_output)
        for block in found
        if block.syntax in {"python", *_SHELL}
    }
