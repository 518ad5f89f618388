"""Where a falling function crosses zero: found to the last digits, with few looks at it."""

import math

import pytest

from handwave.roots import falling_root

# A function, where it crosses zero, and between what: 1e-300 is where quantiles begin.
FALLING = {
    "a line": (lambda x: 3 - x, 3.0, 1e-9, 10.0),
    "a log": (lambda x: -math.log(x / 7), 7.0, 1e-3, 1e7),
    "flat nearly everywhere": (lambda x: 0.005 - math.exp(-1 / x), 1 / math.log(200), 1e-300, 1e3),
    "as a power": (lambda x: x**-4 - 1e4, 0.1, 1e-3, 1e7),
    "a cube": (lambda x: (2 - x) ** 3, 2.0, 1e-3, 1e3),
    "a step": (lambda x: 1.0 if x < 1.5 else -1.0, 1.5, 1.0, 2.0),
    "infinite before": (lambda x: math.inf if x < 1.5 else -1.0, 1.5, 1.0, 2.0),
    "nan behind": (lambda x: 1.0 if x < 1.5 else math.nan, 1.5, 1.0, 2.0),
}


@pytest.mark.parametrize("kind", FALLING)
def test_a_root_is_found_to_the_last_digits(kind):
    fn, root, low, high = FALLING[kind]
    near = 1e-5 if kind == "a cube" else 1e-14  # a cube's own values are zero that far
    assert falling_root(fn, low, high) == pytest.approx(root, rel=near)


@pytest.mark.parametrize("kind", ["a line", "a log", "flat nearly everywhere", "as a power"])
def test_few_looks_are_enough(kind):
    fn, _, low, high = FALLING[kind]
    looks = []

    def seen(x):
        looks.append(x)
        return fn(x)

    falling_root(seen, low, high)
    assert len(looks) <= 32  # halving takes 64
    assert all(low * (1 - 1e-9) <= x <= high * (1 + 1e-9) for x in looks)


@pytest.mark.parametrize(("height", "end"), [(1.0, 2.0), (-1.0, 1.0), (0.0, 1.0), (math.nan, 1.0)])
def test_without_a_root_it_is_the_nearer_end(height, end):
    assert falling_root(lambda _: height, 1.0, 2.0) == end
