"""Hermite series: the expectations over pairs of Gaussians that they stand for."""

import math

import pytest
import torch

from handwave.shaping import Shaping

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
