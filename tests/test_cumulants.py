"""Quantiles of a band: those of a product of χ²."""

import math

import pytest
import torch

from handwave.wandering import one_input


def chi_squares(degrees, layers, draws=200_000):
    """Draw logs of products of independent χ²_ν/ν."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(draws, dtype=torch.float64)
    for _ in range(layers):
        squares = torch.zeros(draws, dtype=torch.float64)
        for _ in range(degrees):
            squares += torch.randn(draws, dtype=torch.float64, generator=generator).square()
        total += (squares / degrees).log()
    return total


@pytest.mark.parametrize(("degrees", "layers"), [(1, 1), (3, 1), (16, 1), (3, 5), (8, 10)])
@pytest.mark.parametrize("coverage", [0.9, 0.99])
def test_a_band_has_the_quantiles_of_a_product_of_chi_squares(degrees, layers, coverage):
    wander = one_input()
    for _ in range(layers):
        wander = wander.plus(2 / degrees)
    low, high = wander.band(1.0, coverage)
    logs = chi_squares(degrees, layers)
    tail = (1 - coverage) / 2
    above = float((logs > math.log(high)).double().mean())
    below = float((logs < math.log(low)).double().mean())
    # Five standard errors at a false-alarm rate of 1e-6; three cumulants leave 15 % of a tail.
    allowed = 5 * math.sqrt(tail / len(logs)) + (0 if layers == 1 else 0.15 * tail)
    assert abs(below - tail) <= allowed
    assert abs(above - tail) <= allowed


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_a_power_of_the_signal_has_that_power_of_its_band(slope):
    wander = one_input().plus(0.5)
    ends = wander.band(1.0, 0.99)
    powers = tuple(end**slope for end in ends)
    assert wander.scaled(slope).band(1.0, 0.99) == pytest.approx(powers, rel=1e-6)


def test_what_does_not_wander_has_no_width():
    assert one_input().band(3.0, 0.99) == (3.0, 3.0)
    assert one_input().plus(0.0).band(3.0, 0.99) == (3.0, 3.0)
