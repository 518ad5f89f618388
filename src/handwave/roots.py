"""Where a falling function crosses zero."""

import math
from collections.abc import Callable

_HALVINGS = 64


def falling_root(fn: Callable[[float], float], low: float, high: float) -> float:
    """Find where a falling function crosses zero, halving on a log scale.

    Args:
        fn: falls from low to high.
        low: positive.
        high: above it.

    Returns:
        Where fn crosses zero; the nearer end where it does not.
    """
    for _ in range(_HALVINGS):
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (middle, high) if fn(middle) > 0 else (low, middle)
    return math.sqrt(low) * math.sqrt(high)
