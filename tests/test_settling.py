"""Settled units: a direction drawn at random, coordinate by coordinate."""

import math

import pytest
import torch

from handwave import Moments, activation_moments
from handwave.lengths import of_pairs
from handwave.pairs import of_tensor
from handwave.settling import left, of_settled, shares_of, taken
from handwave.units import Units
from test_prediction_strokes import strokes


def settled(fn, law, n):
    """Return E[f(z)] and E[f(z)²] of one z."""
    var = torch.tensor([law.var], dtype=torch.float64)
    return of_settled(fn, law.mean, var, 2 / n).flatten().tolist()


@pytest.mark.parametrize("fn", [torch.tanh, torch.relu, torch.exp])
def test_units_that_nothing_settled_are_gaussian(fn):
    var = torch.logspace(-6, 0.5, 40, dtype=torch.float64).reshape(4, 10)
    mean, second = of_settled(fn, 0.3, var, 0.0)
    for at, by_mean, square in zip(var.flatten(), mean.flatten(), second.flatten(), strict=True):
        exact = activation_moments(fn, Moments(0.3, float(at)))
        assert float(by_mean) == pytest.approx(exact.mean, rel=2e-3)
        assert float(square) == pytest.approx(exact.second_moment, rel=0.02)


def test_one_of_three_is_uniform():
    # A coordinate of a point on a sphere, as Archimedes found.
    edge = 2 * math.sqrt(3)
    mean, second = settled(torch.exp, Moments(0.5, 4.0), 3)
    assert mean == pytest.approx(math.exp(0.5) * math.sinh(edge) / edge, rel=1e-4)
    assert second == pytest.approx(math.exp(1.0) * math.sinh(2 * edge) / (2 * edge), rel=1e-4)


@pytest.mark.parametrize("n", [1.05, 2, 5, 40])
def test_the_moments_are_those_of_a_direction(n):
    law = Moments(0.0, 1.0)
    assert settled(lambda z: z, law, n)[1] == pytest.approx(1.0, rel=1e-4)
    assert settled(torch.square, law, n)[1] == pytest.approx(3 * n / (n + 2), rel=1e-4)


def test_what_is_homogeneous_is_exact_at_every_length():
    var = torch.logspace(-7, 2, 300, dtype=torch.float64)
    second = of_settled(torch.relu, 0.0, var, 0.5)[1]
    assert torch.allclose(second, var / 2, rtol=1e-6)


@pytest.mark.parametrize("fn", [torch.relu, torch.cos])
def test_points_without_length_are_what_the_function_makes_of_the_mean(fn):
    mean, second = of_settled(fn, 0.0, torch.zeros(3, dtype=torch.float64), 0.5)
    there = float(fn(torch.zeros(())))
    assert mean.tolist() == pytest.approx([there] * 3, abs=1e-12)
    assert second.tolist() == pytest.approx([there**2] * 3, abs=1e-12)


def test_it_is_what_a_batch_norm_leaves():
    # 2e5 numbers: their average of tanh², of standard deviation 0.28, is off by 0.0045 at 7 sigma;
    # a false alarm has probability 3e-12.
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40_000, 5, generator=generator, dtype=torch.float64)
    z = z / z.square().mean(1, keepdim=True).sqrt()
    law = Moments(0.0, 1.0)
    second = settled(torch.tanh, law, 5)[1]
    assert float(z.tanh().square().mean()) == pytest.approx(second, abs=0.0045)
    assert second > 1.05 * activation_moments(torch.tanh, law).second_moment


@pytest.mark.parametrize("n", [3, 7, 60])
def test_what_is_left_beyond_the_square_is_that_of_a_direction(n):
    # f² = z³ + const: of E[(z³)²] the line takes E[z⁴]²; a coordinate has E[z⁴] = 3n/(n + 2) and
    # E[z⁶] = 15n²/((n + 2)(n + 4)), a Gaussian 3 and 15.
    def root(z):
        return (z**3 + 2e3).sqrt()

    found = left(root, Moments(0.0, 1.0), 2 / n)
    fourth, sixth = 3 * n / (n + 2), 15 * n * n / ((n + 2) * (n + 4))
    assert found == pytest.approx((sixth - fourth**2) / 6, rel=2e-3)


def test_nothing_is_taken_from_what_no_norm_has_settled():
    assert left(torch.tanh, Moments(0.0, 1.0), 0.0) == 1.0


def centred_strokes():
    """Make the units of a norm over the batch: strokes, each pixel of 3 x 3 without its mean."""
    points = torch.nn.functional.unfold(strokes(12, 14), 3).reshape(12, 9, 12, 12).double()
    points = points - points.mean((0, 2, 3), keepdim=True)
    wander = of_tensor(points, 1)
    return points, Units(wander, 16.0, wander.of_one_unit, settled=wander.of_one_unit)


def test_a_point_has_its_own_share_of_what_it_is_divided_by():
    # Most points are one and the same short one, and long ones point everywhere.
    points, units = centred_strokes()
    shares = shares_of(units)
    assert shares is not None
    assert float((shares * units.wander.same).mean()) == pytest.approx(units.settled / 2, rel=0.01)
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(9, 4000, generator=generator, dtype=torch.float64)
    z = torch.einsum("bcij,cu->ubij", points, w)
    z = z / z.square().mean((1, 2, 3), keepdim=True).sqrt()
    drawn = float(z.tanh().square().mean())
    var = units.wander.same
    var = var * (var.mean() / of_settled(lambda z: z, 0.0, var, units.settled, shares)[1].mean())
    told = float(of_settled(torch.tanh, 0.0, var, units.settled, shares)[1].mean())
    evenly = float(of_settled(torch.tanh, 0.0, units.wander.same, units.settled)[1].mean())
    assert told == pytest.approx(drawn, rel=0.02)
    assert evenly > 1.05 * drawn


def test_of_all_pairs_a_norm_leaves_nothing_of_the_square():
    # Lengths included: of q_a·q_b·(ρ² − taken) nothing is left, on average over all pairs.
    _, units = centred_strokes()
    wander = units.wander
    parts, long = taken(units, wander), of_pairs(wander, wander.same)
    gone = sum(
        share * float((long[name] * parts[name]).mean()) for name, share in wander.shares.items()
    )
    assert gone == pytest.approx(wander.mean(torch.square), rel=0.1)
    assert taken(Units(wander, 16.0, 0.0), wander) == {}
