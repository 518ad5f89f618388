"""Hermite series: the expectations over pairs of Gaussians that they stand for."""

import math

import pytest
import torch

from handwave.shaping import IDENTITY, Shaping, squared_skewness

FUNCTIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "square": torch.square,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 2.0)])
def test_the_series_are_the_expectations_over_pairs(name, rho, mean, std):
    function = FUNCTIONS[name]
    shaping = Shaping.of(function, mean, std)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400_000, dtype=torch.float64, generator=generator)
    b = rho * a + math.sqrt(1 - rho * rho) * b
    f, g = function(mean + std * a), function(mean + std * b)
    products, squares = f * g, f.square() * g.square()
    # 1e-6: 5.2 standard errors for each; 47 terms of a kink's series leave 0.5 %.
    for sample, expected in (
        (products, shaping.product(rho)),
        (
            squares,
            shaping.second**2
            * (float(shaping.spread(torch.tensor(with_mean(rho, mean, std)), 0.0)) + 1),
        ),
    ):
        error = 5.2 * float(sample.std()) / math.sqrt(len(sample))
        scale = float(f.square().mean())
        assert abs(float(sample.mean()) - expected) <= error + 0.005 * max(scale, abs(expected))


def with_mean(rho, mean, std):
    """Return the likeness of two z of that correlation."""
    return (mean * mean + rho * std * std) / (mean * mean + std * std)


def test_the_slope_is_that_of_the_second_moment():
    def log_second(std):
        return math.log(Shaping.of(torch.tanh, 0.3, std).second)

    numeric = (log_second(1.001) - log_second(0.999)) / (2 * math.log(1.001 / 0.999))
    assert Shaping.of(torch.tanh, 0.3, 1.0).slope == pytest.approx(numeric, rel=1e-4)
    assert Shaping.of(torch.relu, 0.0, 1.0).slope == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "sigmoid"])
def test_growth_is_the_slope_of_what_is_beyond_line_and_square(name):
    function = getattr(torch.nn.functional, name)

    def rest(var):
        shaping = Shaping.of(function, 0.0, var**0.5)
        return float(shaping.squares[3:].sum())

    step = 1e-3
    slope = math.log(rest(1 + step) / rest(1 - step)) / math.log((1 + step) / (1 - step))
    assert Shaping.of(function, 0.0, 1.0).growth == pytest.approx(slope, rel=1e-3)


def test_what_is_beyond_the_square_and_the_rest_are_the_spread():
    shaping, rho = Shaping.of(torch.relu, 0.0, 1.0), torch.tensor([-0.5, 0.3, 1.0]).double()
    line, square = (shaping.squares[k] * rho**k / shaping.second**2 for k in (1, 2))
    whole = shaping.spread(rho, 0.0)
    assert torch.allclose(shaping.beyond(rho, 0.0) + line + square, whole)
    assert not IDENTITY.beyond(rho, 0.1).any()


def skew(function):
    known = Shaping.of(function, 0.0, 1.0)
    return squared_skewness(known.mean, known.second, known.third)


def test_the_skewness_is_that_of_the_numbers():
    # Of max(z, 0): E[f³] = √(2/π), E[f] = 1/√(2π), E[f²] = 1/2.
    mean = 1 / math.sqrt(2 * math.pi)
    third = math.sqrt(2 / math.pi) - 1.5 * mean + 2 * mean**3
    expected = third**2 / (0.5 - mean**2) ** 3
    assert skew(torch.relu) == pytest.approx(expected, rel=1e-3)
    assert skew(torch.tanh) == pytest.approx(0.0, abs=1e-12)
