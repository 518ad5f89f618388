"""The parts of a band: quantiles, Hermite series, likeness; each against another way to it."""

import math

import pytest
import torch

from handwave.pairs import of_tensor
from handwave.wandering import IDENTITY, Shaping, Units, one_input


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


def test_one_layer_of_one_input_wanders_by_two_over_its_width():
    after = Units(one_input(), 64.0, 0.0).through(IDENTITY)
    # Of log χ²_64/64: trigamma(32).
    trigamma = float(torch.special.polygamma(1, torch.tensor(32.0)))
    assert after.cumulants[1] == pytest.approx(trigamma, rel=1e-6)


@pytest.mark.parametrize("count", [2, 16, 200])
def test_likeness_is_the_effective_rank_of_a_batch(count):
    x = torch.randn(count, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = x.T @ x
    rank = float(sigma.trace()) ** 2 / float(sigma.square().sum())
    assert of_tensor(x, -1).mean(torch.square) == pytest.approx(1 / rank, rel=1e-6)


def test_equal_inputs_are_alike_and_tokens_as_often_as_they_are_equal():
    same = torch.ones(5, 8)
    assert of_tensor(same, -1).mean(torch.square) == pytest.approx(1.0)
    ids = torch.tensor([0, 0, 1, 2])  # 4·4 pairs, 6 of them of the same token
    assert of_tensor(ids, -1).mean(torch.square) == pytest.approx(6 / 16, abs=1e-3)


@pytest.mark.parametrize("x", [torch.zeros(4, 8), torch.full((4, 8), math.nan), torch.ones(1, 8)])
def test_where_nothing_is_known_the_worst_is_assumed(x):
    assert of_tensor(x, -1).mean(torch.square) == 1.0
