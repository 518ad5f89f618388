"""Quadrature: what a function does is found anywhere on the line, however little or far out."""

import math
from typing import Any

import pytest
import torch
from mpmath import mp
from torch import nn

from handwave import Moments, activation_moments, gain
from handwave.quadrature import halved, on_panels


@pytest.mark.parametrize("count", [12, 20])
def test_all_polynomials_of_a_degree_are_integrated_as_they_are(count):
    # Gauss-Lobatto with n nodes is exact up to degree 2n - 3, and not for the next even one.
    edges = torch.tensor([[-1.0, 0.5], [0.5, 3.0]], dtype=torch.float64)
    nodes, weights = on_panels(edges, count)
    assert torch.equal(nodes[:, [0, -1]], edges)
    for degree in (1, 2, 2 * count - 3):
        found = (nodes**degree * weights).sum(dim=1)
        exact = (edges[:, 1] ** (degree + 1) - edges[:, 0] ** (degree + 1)) / (degree + 1)
        assert torch.allclose(found, exact, rtol=1e-12, atol=1e-14)
    ends = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    nodes, weights = on_panels(ends, count)
    even = 2 * count - 2
    assert float((nodes**even * weights).sum()) != pytest.approx(2 / (even + 1), rel=1e-12)


def test_halves_of_a_panel_stand_side_by_side():
    edges = torch.tensor([[0.0, 2.0], [2.0, 6.0]])
    assert halved(edges).tolist() == [[0, 1], [1, 2], [2, 4], [4, 6]]


def test_a_jump_is_found_wherever_it_stands():
    # A hundred places, most of them close to where panels end; E[1{z > a}] = Φ(−a).
    places = torch.rand(100, generator=torch.Generator().manual_seed(0)).double() ** 4 / 2 - 0.25
    for a in places.tolist():
        law = activation_moments(lambda z, a=a: (z > a).double(), Moments(0.0, 1.0))
        assert law.mean == pytest.approx(0.5 * math.erfc(a / math.sqrt(2)), rel=1e-9)


def between(low, high):
    return lambda z: ((z > low) & (z < high)).double()


@pytest.mark.parametrize(
    ("low", "high", "mean", "std"),
    [
        (2.699, 2.701, 0.0, 1.0),
        (0.30, 0.301, 0.0, 1.0),
        (-0.001, 0.001, 0.0, 1.0),
        (-1.0, 1.0, 0.0, 1e3),
        (-1.0, 1.0, 370.0, 1e3),
        (-1.0, 1.0, 1e3, 3e3),
        (-0.7, 1.9, -1e5, 1e6),
    ],
)
def test_a_function_that_does_little_is_found_doing_it(low, high, mean, std):
    law = activation_moments(between(low, high), Moments(mean, std**2))
    a, b = ((mp.mpf(end) - mean) / std for end in (low, high))
    share = mp.ncdf(b) - mp.ncdf(a)
    assert law.mean == pytest.approx(float(share), rel=1e-9)
    assert law.var == pytest.approx(float(share * (1 - share)), rel=1e-9)


@pytest.mark.parametrize(("low", "high"), [(-0.001, 0.001), (0.30, 0.301)])
def test_a_narrow_clip_has_a_backward_gain(low, high):
    share = mp.ncdf(high) - mp.ncdf(low)
    assert gain(nn.Hardtanh(low, high), backward=True) == pytest.approx(
        float(share**-0.5), rel=1e-9
    )


@pytest.mark.parametrize("std", [1e4, 1e6, 1e8])
def test_a_curve_is_seen_from_far_off(std):
    # ∫ tanh′(z)² dz = 4/3, under a density that hardly changes meanwhile: by 1/std² of itself.
    mean = 0.3 * std
    law = activation_moments(
        lambda z: 1 / torch.cosh(z).clamp(max=1e99) ** 2, Moments(mean, std**2)
    )
    assert law.second_moment == pytest.approx(
        4 / 3 * float(mp.npdf(0.3)) / std, rel=3 / std**2 + 1e-9
    )


@pytest.mark.parametrize("fn", [nn.ReLU(), nn.Identity(), nn.GELU()])
def test_a_mean_that_dwarfs_the_spread_is_not_taken_for_roughness(fn):
    # z = 5 is rounded by 1e-6 of a standard deviation. From 5 on GELU is straight to 2e-5.
    law = activation_moments(fn, Moments(5.0, 1e-18))
    assert law.mean == pytest.approx(5.0, rel=1e-6)
    assert law.var == pytest.approx(1e-18, rel=3e-5)


def test_a_kink_is_found_under_a_mean_that_dwarfs_the_spread():
    # min(z, 1) for z = 1 + s·(t + 0.3): E = 1 + s·(0.3·Φ(−0.3) − φ(0.3)).
    s = 1e-6
    law = activation_moments(lambda z: z.clamp(max=1.0), Moments(1 + 0.3 * s, s * s))
    fall = float(mp.npdf(0.3) - 0.3 * mp.ncdf(-0.3))
    assert (1 - law.mean) / s == pytest.approx(fall, rel=1e-8)


def test_what_grows_as_a_gaussian_has_its_second_moment_as_long_as_there_is_one():
    # E[exp(a·z²)] = 1/√(1 − 2a), with a = 0.24 for the mean, 0.48 for the square.
    law = activation_moments(lambda z: torch.exp(0.24 * z * z), Moments(0.0, 1.0))
    assert law.mean == pytest.approx(0.52**-0.5, rel=1e-9)
    assert law.second_moment == pytest.approx(5.0, rel=1e-9)
    with pytest.raises(ValueError, match="is infinite, or comes from where float64 ends"):
        gain(lambda z: torch.exp(0.249 * z * z))  # finite, and all of it beyond exp(700)


def test_a_pole_with_a_second_moment_has_one():
    # Its place is no float's, and its values are finite on all floats.
    root = mp.sqrt(mp.mpf(0.3))
    squares: Any = mp.quad(
        lambda t: abs(t * t - mp.mpf(0.3)) ** mp.mpf("-0.2") * mp.npdf(t),
        [-14, -4, -2, -root, 0, root, 2, 4, 14],
    )
    found = gain(lambda z: (z * z - 0.3).abs() ** -0.1)
    assert found == pytest.approx(float(squares) ** -0.5, rel=1e-6)


def test_a_large_mean_leaves_the_variance_its_digits():
    law = activation_moments(nn.Identity(), Moments(1e7, 1.0))
    assert law.var == pytest.approx(1.0, rel=1e-7)


@pytest.mark.parametrize("std", [1.0, 2.5, 3.5, 5.0, 10.0])
def test_a_lognormal_is_reached_however_far_out_it_stands(std):
    # E[e^z] = e^(s²/2), E[e^2z] = e^(2s²): at s = 10 most of it stands 20 sd from the centre.
    law = activation_moments(torch.exp, Moments(0.0, std**2))
    assert law.mean == pytest.approx(math.exp(std**2 / 2), rel=1e-9)
    assert law.second_moment == pytest.approx(math.exp(2 * std**2), rel=1e-9)


def test_a_second_moment_that_is_barely_finite_is_found():
    # E[exp(a·z²)] = 1/√(1 − 2a), here a = 0.4.
    assert gain(lambda z: torch.exp(z * z / 5)) == pytest.approx(0.2**0.25, rel=1e-9)
