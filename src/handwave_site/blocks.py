"""The grammar of a page: its Python blocks, the output and the figures that belong to each.

A page is plain Markdown. This file names every block by its line, and refuses, with a remedy,
whatever pytest-codeblocks would silently skip or run in another way.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import sys
from pathlib import Path
from types import ModuleType

from handwave_site.fences import SHELL, Fence, Line, parts
from handwave_site.model import Block, Figure, Output, Page, Problem, Quote
from handwave_site.prose import MARKER, check_comment, check_paragraph, resembles_a_marker

__all__ = ["MARKER", "Block", "Figure", "Output", "Page", "Problem", "Quote", "read_page"]

_IMAGE = re.compile(r"^(?P<lead> *)!\[(?P<alt>.*)\]\((?P<link>[^()\s]*)\)(?:\{[^}]*\})?\s*$")
_LISTED_FENCE = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+(?:`{3,}|~{3,})")


def read_page(path: Path, text: str | None = None) -> Page:
    r"""Read one page and check its grammar.

    Args:
        path: the Markdown file; problems name it as it is given here.
        text: its text, where the caller holds it already.

    Returns:
        The page, its line ends as \n. `page.problems` lists all that its grammar forbids; a
        page with problems must not be run.
    """
    page = _load(path) if text is None else Page(path, text)
    _collect(page, list(parts(page)))
    _check_names(page)
    _compare_with_pytest_codeblocks(page)
    page.problems.sort(key=lambda problem: problem.line)
    return page


def _load(path: Path) -> Page:
    page = Page(path, "")
    try:
        raw = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        page.report(1, f"this page is not UTF-8 ({error.reason}); save it as UTF-8")
        return page
    page.text = raw.replace("\r\n", "\n")
    if "\r" in page.text or raw.count("\r\n") not in (0, raw.count("\n")):
        page.report(1, "this page mixes line ends; save it with one kind, \\n or \\r\\n")
        page.text = page.text.replace("\r", "\n")
    return page


class _Prose:
    """Collects the lines of a paragraph, since inline code may span them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.first = 0
        self.lines: list[str] = []

    def add(self, line: Line) -> None:
        if not self.lines:
            self.first = line.number
        self.lines.append(line.text)

    def end(self) -> None:
        if self.lines:
            check_paragraph(self.page, self.first, self.lines)
            self.lines = []


def _collect(page: Page, found: list[Fence | Line]) -> None:
    """Give each block its output and its figures; check the prose between."""
    owner: Block | None = None  # the block that an output or a figure here would belong to
    marker: int | None = None
    prose = _Prose(page)
    for part in found:
        if isinstance(part, Fence):
            prose.end()
            owner, marker = _take_fence(page, part, owner, marker)
        elif part.text.strip() == MARKER:
            prose.end()
            _check_marker(page, part, owner, marker)
            marker = part.number
        elif part.text.strip():
            if marker is not None:
                page.report(marker, "only blank lines may stand between marker and output fence")
                marker = None
            owner = _take_line(page, part, owner, prose)
        else:
            prose.end()
    prose.end()
    if marker is not None:
        page.report(marker, "no output fence follows this marker; delete it, and run `make update`")


def _take_fence(
    page: Page, fence: Fence, owner: Block | None, marker: int | None
) -> tuple[Block | None, int | None]:
    if marker is not None and owner is not None:
        _take_output(page, fence, owner, marker)
        return owner, None
    if fence.is_block:
        block = Block(page.path, fence.first, fence.last, fence.indent, fence.body)
        page.blocks.append(block)
        return block, None
    if owner is not None:
        page.report(
            fence.first,
            f"this fence follows the block at line {owner.line} without a marker, so nothing"
            f" checks it; write {MARKER} above it, or words between the two",
        )
    return None, None


def _take_output(page: Page, fence: Fence, owner: Block, marker: int) -> None:
    if fence.info != "text" or fence.ticks != "```" or fence.indent != owner.indent:
        page.report(fence.first, "an output stands in a ```text fence, indented as its block is")
    if owner.indent and any(not line.strip() for line in fence.body.split("\n")[:-1]):
        page.report(
            fence.first,
            "pytest-codeblocks loses blank lines in an indented output; print none here",
        )
    owner.output = Output(marker, fence.first, fence.last, fence.body)


def _check_marker(page: Page, line: Line, owner: Block | None, marker: int | None) -> None:
    if owner is None or owner.figures:
        page.report(
            line.number,
            "this marker does not directly follow a Python block; only blank lines may stand"
            " between block and marker",
        )
    elif owner.output is not None or marker is not None:
        page.report(line.number, f"the block at line {owner.line} has an output fence already")


def _take_line(page: Page, line: Line, owner: Block | None, prose: _Prose) -> Block | None:
    """Check one line of prose; return the block that the next line could belong to."""
    image = _IMAGE.match(line.text)
    if image and image["link"].startswith("figures/"):
        prose.end()
        _take_figure(page, line, image, owner)
        return owner
    if line.commented:
        check_comment(page, line.number, line.text)
        return None
    if owner is not None and line.text.startswith(" " * (owner.indent + 4)):
        page.report(
            line.number,
            f"indented text follows the block at line {owner.line} and looks like its output,"
            " but nothing checks it; write words between the two",
        )
    if _LISTED_FENCE.match(line.text):
        page.report(line.number, "a fence begins on a line of its own, indented below its bullet")
    if resembles_a_marker(line.text):
        check_comment(page, line.number, line.text)
    prose.add(line)
    return None


def _take_figure(page: Page, line: Line, image: re.Match[str], owner: Block | None) -> None:
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
        if ours.get(line) != theirs.get(line):  # None: not found there at all
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
        found = _their_reader().extract_from_buffer(io.StringIO(page.text))
    except RuntimeError as error:
        page.report(1, f"pytest-codeblocks cannot read this page: {error}")
        return {}
    return {
        block.lineno: (_solid(block.code), block.expected_output)
        for block in found
        if block.syntax in {"python", *SHELL}
        and not (block.marks or block.importorskip or block.expected_output_ignore_whitespace)
    }
