"""A page as a notebook to download: the same words, the same blocks, with what they gave."""

from __future__ import annotations

import ast
import hashlib
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from mkdocs.structure.files import File, Files

from handwave_site.cache import Entry, write_atomically
from handwave_site.fences import front_matter
from handwave_site.model import Block, Page
from handwave_site.pages import Course

_BOX = re.compile(r'^(?P<lead> *)(?:!!!|\?\?\?\+?|===)(?: (?P<kind>[\w-]+))*(?: "(?P<title>.*)")?$')
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^()\s#]+)(?P<anchor>#[^()\s]*)?(?=[)\s])")
_ATTRIBUTES = re.compile(r"\{[:.#][^{}]*\}")
_FENCE = re.compile(r"^ *(`{3,})")

# From the path of a link, as the page writes it, to an address that works anywhere.
Resolve = Callable[[str], str]


@dataclass(frozen=True)
class Downloads:
    """Offers the pages of one build as notebooks.

    Args:
        course: the pages as they ran. A page without blocks, or one with problems, which is
            shown while serving, has no notebook.
        files: all files of the site, for links.
        cache: folder for what is made.
        site: the address at which the site will be.
    """

    course: Course
    files: Files
    cache: Path
    site: str

    def offer(self, file: File) -> str:
        """Write a page's notebook beside it; return a link to it, or nothing without one."""
        page, entries = self._ran(Path(str(file.abs_src_path)))
        if page is None:
            return ""
        folder = posixpath.dirname(file.src_uri)

        def resolve(link: str) -> str:
            uri = posixpath.normpath(posixpath.join(folder, link))
            found = self.files.get_file_from_path(uri)
            return urljoin(self.site, found.url if found else link)

        name = f"{page.path.stem}.ipynb"
        target = Path(str(file.abs_dest_path)).with_name(name)
        write_atomically(target, notebook(page, entries, self.cache, resolve))
        return f'<a download href="{name}">download as a notebook</a>'

    def _ran(self, source: Path) -> tuple[Page | None, list[Entry]]:
        page = next((p for p in self.course.pages if p.path.resolve() == source.resolve()), None)
        if page is None or page.problems:
            return None, []
        entries = [entry for block in page.blocks if (entry := self.course.entry(block))]
        return (page if entries else None), entries


def notebook(page: Page, entries: list[Entry], cache: Path, resolve: Resolve) -> bytes:
    """Make a notebook of a page, with outputs.

    Args:
        page: without problems.
        entries: what its blocks printed and drew, in order.
        cache: folder in which a notebook is kept until its page or a result is another.
        resolve: makes a link of the page work away from the site.

    Returns:
        The file's content.
    """
    cells = list(_cells(page, entries, resolve))
    key = hashlib.sha256(repr(cells).encode() + Path(__file__).read_bytes()).hexdigest()
    kept = cache / f"{key}.ipynb"
    if not kept.exists():
        write_atomically(kept, _serialized(cells))
    return kept.read_bytes()


def _serialized(cells: list[str | tuple[Block, Entry]]) -> bytes:
    import nbformat  # noqa: PLC0415 - slow, and only after a change

    make = nbformat.v4
    notebook = make.new_notebook(
        cells=[
            make.new_markdown_cell(cell) if isinstance(cell, str) else _code(make, *cell)
            for cell in cells
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    for position, cell in enumerate(notebook.cells):  # the same in every build
        cell["id"] = f"cell-{position}"
    return (nbformat.writes(notebook) + "\n").encode()


def _code(make: Any, block: Block, entry: Entry) -> Any:
    outputs = [make.new_output("stream", name="stdout", text=entry.stdout)] if entry.stdout else []
    for figure in block.figures:
        data = {"image/svg+xml": entry.figures[figure.name], "text/plain": figure.alt}
        outputs.append(make.new_output("display_data", data=data))
    return make.new_code_cell(block.code.rstrip("\n") + _shown(block), outputs=outputs)


def _shown(block: Block) -> str:
    """Show a figure that pyplot does not know of, as a notebook does: its name comes last."""
    if not block.figures or "pyplot" in block.code:
        return ""
    last = ast.unparse(ast.parse(block.code).body[-1])
    figure, saves, _ = last.partition(".savefig(")
    return f"\n{figure}" if saves and figure.isidentifier() else ""


def _cells(
    page: Page, entries: list[Entry], resolve: Resolve
) -> Iterator[str | tuple[Block, Entry]]:
    """Part a page into its words and its blocks, in order."""
    lines = page.text.split("\n")
    yield _preface(page)
    start, boxes = front_matter(page.text), _Boxes()
    for block, entry in zip(page.blocks, entries, strict=True):
        yield from _words(lines[start : block.line - 1], boxes, resolve)
        yield block, entry
        start = max([block.last, *(f.line for f in block.figures)])
        start = max(start, block.output.last if block.output else 0)
    yield from _words(lines[start:], boxes, resolve)


def _preface(page: Page) -> str:
    trees = (ast.walk(ast.parse(block.code)) for block in page.blocks)
    nodes = [node for tree in trees for node in tree]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    found = sorted({name.partition(".")[0] for name in names} - set(sys.stdlib_module_names))
    return f"*The cells below are whole programs. They import: {', '.join(found)}.*"


def _words(lines: list[str], boxes: _Boxes, resolve: Resolve) -> Iterator[str]:
    text = "\n".join(boxes.opened(lines)).strip()
    if text:
        yield _LINK.sub(lambda link: resolve(link["path"]) + (link["anchor"] or ""), text)


class _Boxes:
    """Take words out of admonitions and tabs, which Jupyter does not know; boxes span cells."""

    def __init__(self) -> None:
        self.indent = 0
        self.fence = ""

    def opened(self, lines: list[str]) -> Iterator[str]:
        for line in lines:
            box = None if self.fence else _BOX.match(line)
            lead = len(line) - len(line.lstrip(" "))
            if line.strip() and lead < self.indent:
                self.indent = lead - lead % 4
            if box:
                self.indent = len(box["lead"]) + 4
                yield f"**{box['title'] or (box['kind'] or '').capitalize()}**\n"
                continue
            bare = line[self.indent :] if lead >= self.indent else line.lstrip(" ")
            fence = _FENCE.match(bare)
            if fence and (not self.fence or fence[1] == self.fence):
                self.fence = "" if self.fence else fence[1]
            yield bare if self.fence else _ATTRIBUTES.sub("", bare)
