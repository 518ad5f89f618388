"""Numbers that the prose quotes: each must stand in an output of its page, digit for digit."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handwave_site.blocks import Page

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_TOKEN = re.compile(
    r"""
    (?P<sign>(?<![\w.)\]])-)?
    (?<![\w.])
    (?P<digits>\d{1,3}(?:[,_\u2009\u202f\u00a0]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)
    (?:[eE](?P<exponent>[-+]?\d{1,6})|\s?[×x]\s?10(?P<power>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,6}))?
    (?!\w|\.\d|,\d)
    """,
    re.VERBOSE,
)

Number = tuple[int, tuple[int, ...], int]


def numbers(text: str) -> set[Number]:
    """Find every number of a text, as whole tokens.

    −, thousands separators and ×10ⁿ are normalised; trailing zeros count: 0.20 is not 0.2.

    >>> numbers("1,790 rows") == numbers("1790")
    True
    >>> numbers("9.1×10⁻¹⁶") == numbers("9.1e-16")
    True
    >>> numbers("0.20") == numbers("0.2")
    False
    """
    return {_number(match) for match in _TOKEN.finditer(text.replace("−", "-"))}


def _number(match: re.Match[str]) -> Number:
    exponent = match["exponent"] or (match["power"] or "0").translate(_SUPERSCRIPTS)
    digits = re.sub(r"[^\d.]", "", match["digits"])
    sign, figures, shift = Decimal(f"{match['sign'] or ''}{digits}e{exponent}").as_tuple()
    assert isinstance(shift, int)
    return sign, tuple(figures), shift


def check_quotes(page: Page, outputs: list[str]) -> None:
    """Report each quoted number that no output of its page holds."""
    held = set().union(*(numbers(output) for output in outputs))
    for quote in page.quotes:
        message = _objection(quote.number, held)
        if message:
            page.report(quote.line, message)


def _objection(text: str, held: set[Number]) -> str | None:
    match = _TOKEN.fullmatch(text.strip().replace("−", "-"))
    if not match:
        return f"*{text}*{{.measured}} is not one number; mark the number alone"
    number = _number(match)
    if len(str(Decimal((0, number[1], 0))).lstrip("0")) < 2:
        return f"*{text}*{{.measured}} has one significant digit, which proves little; quote two"
    if number not in held:
        return f"no output of this page holds {text}; quote what a block prints, digit for digit"
    return None
