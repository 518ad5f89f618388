"""Tensors in lists, tuples and dicts of these, however deep."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """Find all tensors in a value, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
