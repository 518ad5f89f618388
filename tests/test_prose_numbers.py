"""Numbers in prose: what looks like a result is marked as measured, or is arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from arithmetic import ARITHMETIC
from handwave_site.blocks import read_page
from handwave_site.fences import Line, parts
from handwave_site.prose import without_code
from handwave_site.quotes import numbers

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))

# Formulas are checked by the blocks beside them; the mark, by the build; alt texts describe.
ELSEWHERE = re.compile(
    r"\$\$.*?\$\$|\$[^$\n]*\$|\*[^*\s][^*\n]*\*\{\.measured\}|!\[[^\]\n]*\]\([^)\n]*\)"
    r"|(?<=\])\([^)\n]*\)|<[^>\n]*>",
    re.DOTALL,
)
# A decimal fraction, or a power of ten: what one does not write without having it from somewhere.
RESULT = re.compile(
    r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+|\s?×\s?10[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)(?!\w)"
    r"|(?<![\w.,])\d[\d,]*\.\d+(?!\w|\.\d|,\d)"
)


def blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def results(text: str, page: Path) -> Iterator[tuple[int, str]]:
    """Find numbers in a page's prose that look like results: line, number."""
    read = read_page(page, text)
    literals = set().union(*(numbers(block.code) for block in read.blocks))
    lines = [part for part in parts(read) if isinstance(part, Line)]
    prose = ELSEWHERE.sub(blank, without_code("\n".join(line.text for line in lines)))
    for line, words in zip(lines, prose.split("\n"), strict=True):
        for match in RESULT.finditer(words):
            one_digit = len(match[0].replace(".", "").strip("0")) < 2 and "." in match[0]
            if not one_digit and not numbers(match[0]) <= literals:
                yield line.number, match[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_number_in_prose_is_measured_or_a_definition_or_arithmetic(page: Path) -> None:
    known = ARITHMETIC.get(page.name, {})
    loose = [
        f"{page.name}:{line}: {number}"
        for line, number in results(page.read_text(encoding="utf-8"), page)
        if number not in known
    ]
    assert not loose, "mark each *…*{.measured}, or work it out in tests/arithmetic.py"


@pytest.mark.parametrize(("page", "known"), ARITHMETIC.items())
def test_arithmetic_is_right_to_its_last_digit_and_in_use(
    page: str, known: dict[str, float]
) -> None:
    used = {number for _, number in results((DOCS / page).read_text(encoding="utf-8"), DOCS / page)}
    assert set(known) <= used
    for number, value in known.items():
        ((sign, digits, exponent),) = numbers(number)
        written = Decimal((sign, digits, exponent))
        off = abs(Decimal(value) - written) / Decimal(10) ** exponent
        assert off <= Decimal("0.5"), f"{number} is {value}"


def test_a_result_is_found_wherever_it_stands(tmp_path: Path) -> None:
    text = (
        "# A page\n\nIt is 1.25, and 3e-5, and 2.5 × 10⁻⁴, or 783.3.\n\n- 0.031 `0.99` $0.98$\n"
        '\n!!! note "0.5"\n    12.5 in a box, [0.75](x-0.33.md), *0.44*{.measured}, 784, 4.7.1\n'
        "\n```python\nx = 0.031\n```\n"
    )
    found = [number for _, number in results(text, tmp_path / "page.md")]
    assert found == ["1.25", "3e-5", "2.5 × 10⁻⁴", "783.3", "12.5", "0.75"]
