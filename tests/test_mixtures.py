"""A sum of a Gaussian part and another, as a function of one Gaussian."""

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from handwave.crossings import nodes, normal
from handwave.mixtures import Below, of_sum
from handwave.shaping import Shaping

ACTIVATIONS = [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid()]


def quantiles(activation, std):
    return of_sum(activation(nodes(801)), normal(801), std)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("std", [0.2, 1.0, 3.0])
def test_the_function_has_the_law_of_the_sum(activation, std):
    made = quantiles(activation, std)
    assert made
    for z in (-3.0, -1.0, 0.0, 0.5, 2.0, 4.0):
        at = float(made(torch.tensor([z], dtype=torch.float64)))

        def below(t, at=at):
            x = float(activation(torch.tensor(t, dtype=torch.float64)))
            return norm.pdf(t) * norm.cdf((at - x) / std)

        found = quad(below, -9, 0)[0] + quad(below, 0, 9)[0]
        assert norm.ppf(found) == pytest.approx(z, abs=0.01)


def test_it_goes_on_as_a_line():
    made = quantiles(nn.ReLU(), 1.0)
    assert made
    z = torch.tensor([-12.0, -11, -10, -9, 9, 10, 11, 12], dtype=torch.float64)
    y = made(z)
    assert torch.allclose(y[:4].diff(), torch.ones(3).double(), atol=0.05)  # the Gaussian alone
    assert torch.allclose(y[4:].diff(), torch.full((3,), 2**0.5).double(), atol=0.05)  # and a half


def test_a_bend_that_is_too_sharp_is_refused():
    assert quantiles(nn.ReLU(), 0.001) is None


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_likeness_is_found_below_the_function(activation):
    made = quantiles(activation, 1.0)
    assert made
    series = Shaping.of(made, 0.0, 1.0)
    rho = torch.linspace(-0.5, 1, 31, dtype=torch.float64)
    assert torch.allclose(Below(series).of(series.likeness(rho)), rho, atol=1e-3)
