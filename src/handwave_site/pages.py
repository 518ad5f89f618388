"""Bring a folder of pages up to date: the one road that the command and the plugin both take.

Grammar, what is stale, run, compare, write: in this order. Whatever fails is reported with its
page and line, and leaves the results of every other block standing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mkdocs.utils import is_markdown_file

from handwave_site import svg
from handwave_site.blocks import MARKER, Block, Page, Problem, read_page
from handwave_site.cache import Cache, Entry, write_atomically
from handwave_site.quotes import check_quotes
from handwave_site.runner import Ran, Runner
from handwave_site.settings import Settings

_LONGEST = 120  # characters of an output that a message shows


@dataclass
class Course:
    """Some pages, what their blocks printed and drew, and all that is wrong with them."""

    pages: list[Page]
    entries: dict[int, Entry] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def entry(self, block: Block) -> Entry | None:
        """Find what a block printed and drew, or None where it failed."""
        return self.entries.get(id(block))

    def keep(self, block: Block, entry: Entry) -> None:
        """Remember what a block printed and drew."""
        self.entries[id(block)] = entry

    def collect(self) -> Course:
        """Gather the problems of the pages, sorted by page and line."""
        problems = [problem for page in self.pages for problem in page.problems]
        self.problems = sorted(set(problems), key=lambda p: (p.path, p.line, p.message))
        return self


def find_pages(paths: Iterable[Path]) -> list[Path]:
    """List the Markdown files named, and those in the folders named, each once.

    Hidden files and folders are left out, as MkDocs does; links to folders are followed.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file is not Markdown, or not named .md, or there is no page at all.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        for page in _below(path) if path.is_dir() else [path]:
            if page.suffix != ".md":
                raise ValueError(f"{page}: not a Markdown page; name .md files or their folders")
            found.setdefault(page.resolve(), page)
    if not found:
        raise ValueError("no page found; name .md files or folders that hold some")
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    """List the Markdown files of a folder, whatever Markdown ending they have."""
    for name, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(files):
            if is_markdown_file(file) and not file.startswith("."):
                yield Path(name, file)


def bring_up_to_date(
    paths: Sequence[Path], settings: Settings, runner: Runner, *, use_cache: bool = True
) -> Course:
    """Check pages, run their stale blocks, write their figures; change no page.

    Args:
        paths: Markdown files and folders of them.
        settings: the options of mkdocs.yml.
        runner: starts only if a block must run.
        use_cache: False runs every block.

    Returns:
        The course; `course.problems` is empty if and only if everything is as the pages say.
    """
    course = Course([read_page(path) for path in find_pages(paths)])
    cache = Cache(settings.cache / "blocks", settings.stamp())
    sound = [page for page in course.pages if not page.problems]
    blocks = [block for page in sound for block in page.blocks]
    stale = _recall(course, cache, blocks) if use_cache else blocks
    if stale:
        _run(course, cache, stale, runner)
        if settings.stamp() != cache.stamp:
            cache.forget(block.code for block in stale)  # they may have seen either source
    for page in sound:
        _compare(course, page)
        _write_figures(course, page)
    return course.collect()


def _recall(course: Course, cache: Cache, blocks: list[Block]) -> list[Block]:
    """Take from the cache what it knows; return the blocks that must run."""
    stale = []
    for block in blocks:
        entry = cache.get(block.code)
        if entry is None:
            stale.append(block)
        else:
            course.keep(block, entry)
    return stale


def _run(course: Course, cache: Cache, blocks: list[Block], runner: Runner) -> None:
    from tqdm import tqdm  # noqa: PLC0415 - only when there is progress to show

    pages = {page.path: page for page in course.pages}
    slowest = (0.0, "")
    patience = 0.1 if sys.stderr.isatty() else 10  # a log wants few lines
    with tqdm(
        total=len(blocks), unit=" blocks", file=sys.stderr, leave=False, mininterval=patience
    ) as progress:

        def done(number: int, ran: Ran) -> None:
            nonlocal slowest
            block = blocks[number]
            _settle(course, cache, pages[block.path], block, ran)
            slowest = max(slowest, (ran.result.seconds, f"{block.path}:{block.line}"))
            progress.set_postfix_str(f"slowest {slowest[1]} {slowest[0]:.1f} s", refresh=False)
            progress.update()

        runner.run([(block.line, block.code) for block in blocks], done)
    cache.prune()
    print(f"{len(blocks)} blocks run, slowest {slowest[1]} {slowest[0]:.1f} s", file=sys.stderr)


def _settle(course: Course, cache: Cache, page: Page, block: Block, ran: Ran) -> None:
    """Keep what a block did, or report why it failed."""
    if ran.result.failure:
        page.report(ran.result.line, ran.result.failure)
        return
    try:
        figures = {
            name: svg.two_schemes(picture)
            for name, picture in ran.files.items()
            if name.endswith(".svg") and "/" not in name
        }
    except (ValueError, OverflowError, RecursionError) as error:
        page.report(block.line, f"this block saves a picture that cannot be shown: {error}")
        return
    left = [name for name in ran.files if name not in figures]
    if left:
        page.report(block.line, f"this block leaves files behind: {', '.join(left)}; delete them")
        return
    entry = Entry(ran.result.stdout, figures, ran.result.seconds, ran.result.cpu_seconds)
    cache.put(block.code, entry)
    course.keep(block, entry)


def _compare(course: Course, page: Page) -> None:
    """Hold what the blocks did against what the page says that they do."""
    outputs = []
    for block in page.blocks:
        entry = course.entry(block)
        if entry is not None:
            outputs.append(entry.stdout)
            _compare_output(page, block, entry.stdout)
            _compare_figures(page, block, list(entry.figures))
    if all(course.entry(block) for block in page.blocks):
        check_quotes(page, outputs)


def _compare_output(page: Page, block: Block, printed: str) -> None:
    said = block.output
    if not _fits_a_fence(block, printed):
        page.report(
            block.line,
            "an output ends with a new line and holds no ``` and no carriage return, and an"
            " indented one no blank line; print it so",
        )
    elif printed and said is None:
        page.report(
            block.line,
            'this block prints, but no output fence follows; run "make update", or print nothing',
        )
    elif said is not None and not printed:
        page.report(said.first, "an output fence follows, but the block prints nothing; delete it")
    elif said is not None and said.text != printed:
        page.report(*_first_difference(said.first, said.text, printed))


def _first_difference(first: int, said: str, printed: str) -> tuple[int, str]:
    ours, theirs = said.split("\n"), printed.split("\n")
    i = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    a, b = (_shortened(lines[i]) if i < len(lines) else "''" for lines in (ours, theirs))
    return first + 1 + i, f'the page says {a}, the block prints {b}; run "make update"'


def _shortened(line: str) -> str:
    text = repr(line)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _compare_figures(page: Page, block: Block, saved: list[str]) -> None:
    shown = [figure.name for figure in block.figures]
    for figure in block.figures:
        if figure.name not in saved:
            page.report(
                figure.line, f"no block saves {figure.name} here; {_offer(block, saved, shown)}"
            )
    for name in saved:
        if name not in shown:
            page.report(
                block.line,
                f"this block saves {name}, but the page does not show it; put"
                f" ![what is to be seen](figures/{page.path.stem}/{name}) under it",
            )
    if sorted(saved) == sorted(shown) and saved != shown:
        order = ", ".join(saved)
        page.report(block.figures[0].line, f"show the figures in the order saved: {order}")


def _offer(block: Block, saved: list[str], shown: list[str]) -> str:
    other = [name for name in saved if name not in shown]
    if other:
        return f"the block at line {block.line} saves {', '.join(other)}"
    return f"delete the link, or save it in the block at line {block.line}"


def _write_figures(course: Course, page: Page) -> None:
    """Write the page's figures where their bytes differ; delete those no longer drawn."""
    folder = page.path.parent / "figures" / page.path.stem
    entries = [course.entry(block) for block in page.blocks]
    drawn = {name: text for entry in entries if entry for name, text in entry.figures.items()}
    for name, text in drawn.items():
        content = text.encode()
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            write_atomically(folder / name, content)
    if all(entries):
        for path in folder.glob("*.svg"):
            if path.name not in drawn:
                path.unlink()


def update(course: Course) -> dict[Path, str]:
    """Make new texts for the pages whose output fences are stale.

    A page with a failing block, or one that its grammar forbids, is left as it is.

    Returns:
        The new text of each page that changes; write it with `write_pages`.
    """
    texts = {}
    for page in course.pages:
        if all(course.entry(block) for block in page.blocks):
            text = updated_text(course, page)
            if text != page.text:
                texts[page.path] = text
    return texts


def updated_text(course: Course, page: Page) -> str:
    """Give a page's text with each output fence as its block prints now, where it ran."""
    lines = page.text.split("\n")
    for block in reversed(page.blocks):  # bottom up, so that line numbers above stay true
        entry = course.entry(block)
        if entry is not None and _fits_a_fence(block, entry.stdout):
            first, last, fence = _replacement(block, entry.stdout)
            lines[first:last] = fence
    return "\n".join(lines)


def _fits_a_fence(block: Block, printed: str) -> bool:
    blank = block.indent > 0 and "" in map(str.strip, printed.split("\n")[:-1])
    odd = blank or "```" in printed or "\r" in printed
    return not printed or (printed.endswith("\n") and not odd)


def _replacement(block: Block, printed: str) -> tuple[int, int, list[str]]:
    """Find the lines to replace, counted from 0, and what replaces them."""
    lead = " " * block.indent
    body = [lead + line if line else "" for line in printed.split("\n")[:-1]]
    said = block.output
    if said is not None and printed:
        return said.first, said.last - 1, body
    if said is not None:
        return block.last, said.last, []
    if not printed:
        return block.last, block.last, []
    return block.last, block.last, ["", lead + MARKER, f"{lead}```text", *body, f"{lead}```"]


def write_pages(course: Course, texts: dict[Path, str]) -> None:
    """Write new texts, each page whole or not at all, unless it changed meanwhile."""
    before = {page.path: page.text for page in course.pages}
    for path, text in texts.items():
        raw = path.read_bytes().decode("utf-8")
        if raw.replace("\r\n", "\n") != before[path]:
            raise RuntimeError(f"{path}: changed while its blocks ran; run update again")
        content = text.replace("\n", "\r\n") if "\r\n" in raw else text
        write_atomically(path.resolve(), content.encode())
