"""Settled units: a direction drawn at random, coordinate by coordinate."""

import math

import pytest
import torch

from handwave import Moments, activation_moments
from handwave.settling import left, settle


def short_of(n):
    return -2 / (n + 2)


def test_gaussian_units_stay_as_they_are():
    assert settle(torch.tanh, Moments(0.3, 2.0), 0.0) == (0.0, 1.0)


def test_one_of_three_is_uniform():
    # A coordinate of a point on a sphere, as Archimedes found.
    fn, law, edge = torch.exp, Moments(0.5, 4.0), 2 * math.sqrt(3)
    shift, factor = settle(fn, law, short_of(3))
    gaussian = activation_moments(fn, law)
    mean = math.exp(0.5) * math.sinh(edge) / edge
    second = math.exp(1.0) * math.sinh(2 * edge) / (2 * edge)
    assert gaussian.mean + shift == pytest.approx(mean, rel=1e-6)
    assert gaussian.second_moment * factor == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("n", [2, 5, 40])
def test_the_moments_are_those_of_a_direction(n):
    law = Moments(0.0, 1.0)
    fourth = settle(torch.square, law, short_of(n))[1] * 3
    assert settle(lambda z: z, law, short_of(n))[1] == pytest.approx(1.0, rel=1e-4)
    assert fourth == pytest.approx(3 * n / (n + 2), rel=1e-4)


def test_it_is_what_a_batch_norm_leaves():
    # 2e5 numbers: their average of tanh², of standard deviation 0.28, is off by 0.0045 at 7 sigma;
    # a false alarm has probability 3e-12.
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40_000, 5, generator=generator, dtype=torch.float64)
    z = z / z.square().mean(1, keepdim=True).sqrt()
    law = Moments(0.0, 1.0)
    factor = settle(torch.tanh, law, short_of(5))[1]
    predicted = activation_moments(torch.tanh, law).second_moment * factor
    assert float(z.tanh().square().mean()) == pytest.approx(predicted, abs=0.0045)
    assert factor > 1.05


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
