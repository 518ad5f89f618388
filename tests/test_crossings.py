"""Sums of two Gaussians are Gaussian: what both make together is known exactly."""

import math

import pytest
import torch
from torch import nn

from handwave.crossings import Crossed, nodes
from handwave.shaping import Shaping
from handwave.wandering import Wander

SHARES = (0.3, 0.7)  # of the variance
ONE, OTHER = (torch.tensor(rho, dtype=torch.float64) for rho in ([0.9, 0.2, 0.5], [0.3, 0.6, -0.2]))

FUNCTIONS = [torch.relu, torch.tanh, nn.functional.gelu, torch.square]


def pairs(rho):
    """Give all pairs of points these correlations, and none to a point with itself."""
    return Wander(torch.ones(3, dtype=torch.float64), rho, rho, rho, rho, share=0.0)


def crossed(orders=9, steep=None):
    a, b = (math.sqrt(share) for share in SHARES)
    t = nodes(401)
    z = a * t[:, None] + b * t
    alike = [
        [float((ONE**j * OTHER**k).mean().clamp_min(0)) for k in range(orders)]
        for j in range(orders)
    ]
    steep = torch.ones_like(t) if steep is None else steep(t)
    moved, by = math.sqrt(1.01) * z, math.log(1.01)
    table = torch.tensor(alike, dtype=torch.float64)
    lines = float(table[1, 0]), float(table[0, 1])
    both = pairs(ONE), pairs(OTHER)
    return Crossed(z, *both, moved, by, table, lines, (True, True), 0.1, steep)


def parted(terms, orders):
    """Divide the terms of a series in ρ = 0.3·ρ₁ + 0.7·ρ₂ between both."""
    a, b = SHARES
    made = crossed(orders).alike
    return {
        (j, k): float(terms[j + k]) * math.comb(j + k, j) * a**j * b**k * float(made[j, k])
        for j in range(orders)
        for k in range(orders)
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_likeness_is_that_of_the_sum(function):
    after = pairs(ONE)
    found = crossed().likeness(function, after)["far"]
    expected = Shaping.of(function, 0.0, 1.0).likeness(SHARES[0] * ONE + SHARES[1] * OTHER)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_squares_of_one_part_alone_are_left_out(function):
    series, orders = Shaping.of(function, 0.0, 1.0), 9
    terms = parted(series.squares, orders)
    known = {(0, 0), (0, 2), (2, 0)}
    expected = sum(term for place, term in terms.items() if place not in known)
    found = crossed(orders).together(function)
    assert found.beyond == pytest.approx(expected / series.second**2, rel=1e-3, abs=1e-9)
    assert found.slope == pytest.approx(series.slope, rel=0.01)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_of_a_mean_too(function):
    series, orders = Shaping.of(function, 0.0, 1.0), 9
    terms = parted(series.values, orders)
    expected = sum(term for place, term in terms.items() if place not in {(0, 0), (0, 2), (2, 0)})
    assert crossed(orders).open_mean(function) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_nothing_is_left_of_a_function_that_is_nothing():
    found = crossed().together(torch.zeros_like)
    assert (found.beyond, found.slope) == (0.0, 0.0)


def test_a_gradient_goes_through_both_more_often_than_not():
    # Both are positive with probability 1/4 + asin(√0.3)/2π, each of them with 1/2.
    def positive(z):
        return (z > 0).double()

    both = 0.25 + math.asin(math.sqrt(SHARES[0])) / (2 * math.pi)
    assert crossed(steep=positive).passed(positive) == pytest.approx(4 * both, rel=0.01)
    assert crossed().passed(positive) == pytest.approx(1.0)
