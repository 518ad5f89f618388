"""Cut a page into fences and the lines between them; refuse fences that run otherwise or never."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mkdocs.utils import meta

from handwave_site.model import Page

_FENCE = re.compile(r"^(?P<lead>[ \t>]*)(?P<ticks>`{3,}|~{3,})(?P<info>.*)$")
_PYTHON = ("py", "ipy")  # what a language of Python starts with, and misspelt ones too
SHELL = frozenset({"sh", "bash"})


@dataclass(frozen=True)
class Fence:
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
        """Tell whether this is a Python block as the grammar wants it."""
        return self.ticks == "```" and self.info == "python" and not self.quoted


@dataclass(frozen=True)
class Line:
    """A line outside every fence."""

    number: int
    text: str
    commented: bool = False


def parts(page: Page) -> Iterator[Fence | Line]:
    """Cut a page into fences and the lines between them."""
    lines = page.text.split("\n")
    number, commented, comment = front_matter(page.text), False, 0
    if not number and lines[0].rstrip() == "---":
        page.report(1, "a page that begins with --- needs front matter, closed with ---")
    while number < len(lines):
        text = lines[number]
        number += 1
        opening = _FENCE.match(text)
        if not opening:
            if not commented and text.lstrip().startswith("<!--"):
                commented, comment = True, number
            yield Line(number, text, commented)
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


def front_matter(text: str) -> int:
    """Count the lines of a page's front matter: what MkDocs does not render."""
    rest, found = meta.get_data(text)
    return text[: len(text) - len(rest)].count("\n") if found else 0


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


def _fence(page: Page, opening: re.Match[str], first: int, last: int, body: list[str]) -> Fence:
    lead = opening["lead"]
    fence = Fence(
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
    else:
        _check_indent(page, lead, first, body)
    return fence


def _dedent(line: str, indent: int) -> str:
    return line[min(indent, len(line) - len(line.lstrip())) :]


def _refusal(fence: Fence, lead: str) -> str | None:
    """Say why a fence is forbidden, or None."""
    is_python = any(word.startswith(_PYTHON) for word in fence.words)
    return _refusal_of_any(fence) or (_refusal_of_python(fence, lead) if is_python else None)


def _refusal_of_any(fence: Fence) -> str | None:
    if "~" in fence.ticks:
        return "a ~~~ fence is never run; write ``` instead"
    if "`" in fence.info:
        return "a fence's first line must not hold backticks again; give the code its own lines"
    shells = SHELL.intersection(fence.words)
    if shells:
        return f"a {min(shells)} fence is run by pytest-codeblocks; write ```console instead"
    if fence.ticks != "```" and fence.info != "markdown":
        return "four backticks are for a markdown fence that shows the grammar; use three"
    return None


def _refusal_of_python(fence: Fence, lead: str) -> str | None:
    if fence.quoted:
        return "a Python block in a block quote is never run; move it out"
    if "\t" in lead:
        return "a Python block indented with tabs is read in two ways; indent with spaces"
    if not fence.is_block:
        return f"```{fence.info} is never run; write ```python, with nothing after it"
    if re.search(r"\b__name__\s*[=!]=", fence.body):
        return "a block is a whole program; put what stands under __name__ at its top level"
    return None


def _check_indent(page: Page, lead: str, first: int, body: list[str]) -> None:
    """A line left of its fence ends the box or the list that the block stands in."""
    for number, line in enumerate(body, first + 1):
        if line.strip() and not line.startswith(lead):
            page.report(number, "this line stands left of its fence; indent it as the fence is")
