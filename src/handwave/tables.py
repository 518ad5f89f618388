"""Print rows as a table, as text and as HTML, and as what strict JSON can hold."""

import html
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch

# Title and cells, all text.
Column = tuple[str, ...]


def as_text(columns: Sequence[Column], numbers: Collection[str]) -> str:
    """Lay out columns side by side.

    Args:
        columns: a title and its cells each.
        numbers: titles of the columns that stand to the right.

    Examples:
        >>> print(as_text([("layer", "0", "1"), ("scale", "2", "10")], {"scale"}))
        layer  scale
        0          2
        1         10
    """
    laid = []
    for column in columns:
        width = max(map(len, column))
        right = column[0] in numbers
        laid.append([cell.rjust(width) if right else cell.ljust(width) for cell in column])
    return "\n".join("  ".join(row).rstrip() for row in zip(*laid, strict=True))


def as_html(columns: Sequence[Column]) -> str:
    """Write the same for a notebook.

    Examples:
        >>> as_html([("layer", "<0>")])
        '<table><thead><tr><th>layer</th></tr></thead><tbody><tr><td>&lt;0&gt;</td></tr></tbody></table>'
    """
    titles, *rows = zip(*columns, strict=True)
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{_cells(titles, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)


def as_number(value: float | None) -> str:
    """Write a cell of four significant digits, empty without a value."""
    return "" if value is None else f"{value:.4g}"


def plain(value: Any) -> Any:
    """Turn a value into what strict JSON can hold: a number it has no word for is a string.

    Examples:
        >>> plain({"shape": (2, 3), "after": float("inf"), "dtype": torch.float16})
        {'shape': [2, 3], 'after': 'inf', 'dtype': 'float16'}
    """
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
