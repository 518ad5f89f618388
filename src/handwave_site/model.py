"""What a page is: its blocks, its outputs and figures, its quoted numbers, its problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


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
