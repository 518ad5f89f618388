"""What stands around a page: the question that it opens with, and the time to read it."""

from __future__ import annotations

import re

_QUESTION = re.compile(r'^!!! question "(?P<title>[^"\n]+)"\s*$', re.MULTILINE)
_FENCE = re.compile(
    r"^(?P<lead> *)(?P<ticks>`{3,})(?P<info>.*)\n(?:.*\n)*?(?P=lead)(?P=ticks) *$", re.M
)
_FOLDED = re.compile(r"^\?\?\? .*\n(?:(?: {4}.*)?\n)*", re.MULTILINE)
_UNREAD = re.compile(r"<!--.*?-->|!\[.*?\]\([^)]*\)|(?<=\])\([^)]*\)", re.DOTALL)

_WORDS_PER_MINUTE = 220
_BLOCKS_PER_MINUTE = 6


def opening_question(text: str) -> str | None:
    """Find the question that a page opens with: the title of its first question box."""
    found = _QUESTION.search(text)
    return found["title"] if found else None


def minutes(text: str) -> int:
    """Estimate how long a page takes: its words, and ten seconds for each of its blocks.

    What is folded away, links' addresses and pictures' descriptions do not count.

    Args:
        text: the page's Markdown.
    """
    told = _FOLDED.sub("", text + "\n")
    blocks = sum(fence["info"].strip() == "python" for fence in _FENCE.finditer(told))
    words = _UNREAD.sub(" ", _FENCE.sub("", told)).split()
    return max(1, round(len(words) / _WORDS_PER_MINUTE + blocks / _BLOCKS_PER_MINUTE))
