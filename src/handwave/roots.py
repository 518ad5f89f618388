"""Where a falling function crosses zero."""

import math
from collections.abc import Callable

_MOST = 200  # steps: three for each that halving alone would take


def falling_root(fn: Callable[[float], float], low: float, high: float) -> float:
    """Find where a falling function crosses zero, by Chandrupatla's method on a log scale.

    It goes where the inverse parabola through three points crosses zero, and halves where that
    is not to be trusted: 17 looks at fn, on average, where halving alone takes 64.

    Args:
        fn: falls from low to high; nan counts as below zero.
        low: positive.
        high: above it.

    Returns:
        Where fn crosses zero; the nearer end where it does not.

    Source:
        T. R. Chandrupatla, Advances in Engineering Software 28 (1997), 145-149.
    """
    last, other = (math.log(low), fn(low)), (math.log(high), fn(high))
    if not last[1] > 0 or other[1] > 0:
        return high if last[1] > 0 else low
    share = 0.5
    for _ in range(_MOST):
        place = last[0] + share * (other[0] - last[0])
        height = fn(math.exp(place))
        before, other = (last, other) if (height > 0) == (last[1] > 0) else (other, last)
        last = place, height
        least = 2e-16 * max(abs(place), 1.0) / abs(other[0] - place)
        if height == 0 or least >= 0.5:
            break
        share = min(max(_step(last, other, before), least), 1 - least)
    return math.exp(last[0])


def _step(
    last: tuple[float, float], other: tuple[float, float], before: tuple[float, float]
) -> float:
    """Return how far to go from the last point to the one on the other side."""
    (a, fa), (b, fb), (c, fc) = last, other, before
    if fc in (fa, fb):
        return 0.5
    place, height = (a - b) / (c - b), (fa - fb) / (fc - fb)
    if not (height**2 < place and (1 - height) ** 2 < 1 - place):
        return 0.5
    straight = fa / (fb - fa) * fc / (fb - fc)
    return straight + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
