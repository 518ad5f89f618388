"""Quoted numbers: whole tokens, digit for digit, however they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handwave_site.blocks import Page, Quote
from handwave_site.quotes import check_quotes, numbers

SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def objections(quoted: str, *outputs: str) -> list[str]:
    page = Page(Path("page.md"), "", quotes=[Quote(7, quoted)])
    check_quotes(page, list(outputs))
    assert all(problem.line == 7 for problem in page.problems)
    return [problem.message for problem in page.problems]


@pytest.mark.parametrize(
    ("quoted", "output"),
    [
        ("783.3", "mean 783.3"),
        ("783.3", "mean=783.3, var=1"),
        ("783.3", "(783.3)"),
        ("783.3", "tensor(783.3)"),
        ("783.3", "It is 783.3."),
        ("783.3", "783.3%"),
        ("1,790", "1790 rows"),
        ("1790", "1,790 rows"),
        ("12,345,678", "12345678"),
        ("1\u202f790", "1790"),  # a narrow space that does not break
        ("−0.25", "-0.25"),
        ("-0.25", "−0.25"),
        ("9.1×10⁻¹⁶", "9.1e-16"),
        ("9.1 × 10⁻¹⁶", "9.1e-16"),
        ("1.5×10³", "1.5e+03"),
        ("1.5e3", "1.5E03"),
        ("0.20", "0.20"),
        ("20", "from 10-20"),
    ],
)
def test_a_number_that_an_output_holds_may_be_quoted(quoted: str, output: str):
    assert objections(quoted, "other 1", output) == []


@pytest.mark.parametrize(
    ("quoted", "output"),
    [
        ("783.3", "783.30"),
        ("783.30", "783.3"),
        ("78.3", "783.3"),
        ("83.3", "783.3"),
        ("783", "783.3"),
        ("33", "783.33"),
        ("0.20", "0.2"),
        ("0.25", "-0.25"),
        ("-0.25", "0.25"),
        ("1790", "1,790,000"),
        ("790", "1,790"),
        ("9.1", "9.1e-16"),
        ("9.1", "9.1×10⁻¹⁶"),
        ("16", "9.1e-16"),
        ("2.13", "torch 2.13.0"),
        ("13.0", "torch 2.13.0"),
        ("32", "float32"),
        ("1000", "1.0e3"),
        ("10", "x10"),
        ("783.3", ""),
        ("783.3", "783,3"),
    ],
)
def test_a_number_that_no_output_holds_may_not(quoted: str, output: str):
    assert objections(quoted, output) == [
        f"no output of this page holds {quoted}; quote what a block prints, digit for digit"
    ]


def test_a_page_without_outputs_can_quote_nothing():
    assert len(objections("783.3")) == 1


@pytest.mark.parametrize("quoted", ["2", "0.2", "0.002", "7e5", "0", "0.00", "−3"])
def test_one_significant_digit_proves_little(quoted: str):
    (message,) = objections(quoted, quoted)
    assert "one significant digit" in message


@pytest.mark.parametrize("quoted", ["10", "0.20", "0.0020", "1.0e-5", "−30"])
def test_trailing_zeros_are_significant(quoted: str):
    assert objections(quoted, quoted) == []


@pytest.mark.parametrize(
    "quoted", ["many", "783.3 and 1", "about 783.3", "783.3 MB", "1/3", "1.2.3"]
)
def test_the_mark_is_for_one_number_alone(quoted: str):
    (message,) = objections(quoted, quoted)
    assert "mark the number alone" in message


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(FINITE)
def test_every_float_that_python_prints_is_found(value: float):
    assert len(numbers(f"a {value} b")) == 1
    assert numbers(f"{value}") == numbers(f"({value}),") == numbers(str(value).replace("-", "−"))


@given(FINITE.filter(bool), st.integers(1, 6))
def test_both_ways_to_write_a_power_of_ten_are_one(value: float, digits: int):
    printed = f"{value:.{digits}e}"
    mantissa, exponent = printed.split("e")
    power = str(int(exponent)).translate(SUPERSCRIPTS)
    assert numbers(printed) == numbers(f"{mantissa}×10{power}") != set()


@given(st.integers(1000, 10**15))
def test_thousands_separators_change_nothing(value: int):
    assert numbers(f"{value:,}") == numbers(f"{value:_}") == numbers(str(value))


@given(FINITE, FINITE)
def test_numbers_that_print_differently_are_different(one: float, other: float):
    printed = f"{one:.6g}", f"{other:.6g}"
    assert (numbers(printed[0]) == numbers(printed[1])) == (printed[0] == printed[1])


@example("1×10⁻")
@example("1×10⁻⁻²")
@example("1e99999999999999999999")
@example("1e-99999999999999999999")
@given(st.text(alphabet="0123456789.,_-−+eE×x⁰²⁻⁺ \u202f\u0663a*\n", max_size=20))
def test_any_text_is_searched_without_an_error(text: str):
    assert all(sign in (0, 1) for sign, _, _ in numbers(text))
