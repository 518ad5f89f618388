"""What the prose of a page holds: quoted numbers, pictures, comments."""

from __future__ import annotations

import difflib
import re

from handwave_site.model import Page, Quote

MARKER = "<!--pytest-codeblocks:expected-output-->"

_MEASURED = re.compile(r"(?<![*\w])\*(?P<number>[^*\s][^*]*)\*\{\.measured\}")
_ATTRIBUTES = re.compile(r"(?P<star>\*\s*)?\{(?P<inside>[^{}]*)\}?|(?<!\w)\.measured\b")
_MARKER_WORDS = re.compile(r"pytest|codeblock|expected|skip|xfail|<!--[-\s]*cont[-\s]*-->")
_RAW = re.compile(r"<[^>]*class\s*=[^>]*measured", re.IGNORECASE)


def without_code(text: str) -> str:
    """Blank out escaped characters and inline code, line ends kept; code may span lines."""
    text = re.sub(r"\\[\\`*{]", "  ", text)
    runs = list(re.finditer(r"`+", text))
    spans, i = [], 0
    closing = _next_of_same_length([len(run[0]) for run in runs])
    while i < len(runs):
        if (end := closing[i]) is None:
            i += 1
            continue
        spans.append((runs[i].start(), runs[end].end()))
        i = end + 1
    for start, end in reversed(spans):
        text = text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
    return text


def _next_of_same_length(lengths: list[int]) -> list[int | None]:
    found: list[int | None] = [None] * len(lengths)
    last: dict[int, int] = {}
    for i in range(len(lengths) - 1, -1, -1):
        found[i] = last.get(lengths[i])
        last[lengths[i]] = i
    return found


def check_paragraph(page: Page, first: int, lines: list[str]) -> None:
    """Check the lines of one paragraph: its pictures, and the numbers that it quotes."""
    for number, prose in enumerate(without_code("\n".join(lines)).split("\n"), first):
        if re.search(r"figures/\S*\.svg", prose):
            page.report(number, "a figure stands alone on its line, as ![…](figures/…/….svg)")
        if re.search(r"!\[(?:\s|&nbsp;)*\]", prose):
            page.report(number, "this picture has no alt text; say what is to be seen in it")
        if _RAW.search(prose):
            page.report(number, "a quoted number is written *783.3*{.measured}, not in HTML")
        _take_quotes(page, number, prose)


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


def resembles_a_marker(line: str) -> bool:
    """Tell a marker that lost a bracket or a letter from a line of prose."""
    text = line.strip()
    if "-" not in text or len(text) > 2 * len(MARKER):
        return False  # a cheap look first: this is asked of every line
    return difflib.SequenceMatcher(None, text, MARKER).ratio() > 0.8


def check_comment(page: Page, number: int, line: str) -> None:
    """Refuse what could be meant as a marker, and words that a comment hides from the checks."""
    text = line.strip().lower()
    alike = difflib.SequenceMatcher(None, text, MARKER).ratio() > 0.6
    if alike or _MARKER_WORDS.search(text):
        page.report(
            number,
            f"{line.strip()!r} is not a marker that a page may hold; the only one is {MARKER}",
        )
    if line.rpartition("-->")[2].strip() and "-->" in line:
        page.report(number, "nothing checks words beside a comment; give it its own line")
