"""Activations: gains held to mpmath, and to torch's own layers."""

import math
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mp
from torch import nn

from handwave import Moments, activation_moments, gain, mlp

# (module, the function in mpmath, its derivative, where it has kinks)
PHI = mpmath.ncdf
CURVES = {
    "relu": (nn.ReLU(), lambda z: max(z, 0), lambda z: int(z > 0), [0]),
    "leaky relu": (nn.LeakyReLU(0.2), lambda z: max(z, z / 5), lambda z: 1 if z > 0 else 0.2, [0]),
    "tanh": (nn.Tanh(), mpmath.tanh, lambda z: mpmath.sech(z) ** 2, []),
    "sigmoid": (
        nn.Sigmoid(),
        lambda z: 1 / (1 + mpmath.exp(-z)),
        lambda z: mpmath.sech(z / 2) ** 2 / 4,
        [],
    ),
    "gelu": (nn.GELU(), lambda z: z * PHI(z), lambda z: PHI(z) + z * mpmath.npdf(z), []),
    "silu": (
        nn.SiLU(),
        lambda z: z / (1 + mpmath.exp(-z)),
        lambda z: (1 + mpmath.exp(-z) * (1 + z)) / (1 + mpmath.exp(-z)) ** 2,
        [],
    ),
    "elu": (
        nn.ELU(),
        lambda z: z if z > 0 else mpmath.expm1(z),
        lambda z: 1 if z > 0 else mpmath.exp(z),
        [0],
    ),
    "hardtanh": (
        nn.Hardtanh(),
        lambda z: max(-1, min(1, z)),
        lambda z: int(abs(z) < 1),
        [-1, 1],
    ),
    "softsign": (
        nn.Softsign(),
        lambda z: z / (1 + abs(z)),
        lambda z: 1 / (1 + abs(z)) ** 2,
        [0],
    ),
    # Kinks and jumps where no panel of the quadrature ends.
    "hardshrink": (
        nn.Hardshrink(0.3217),
        lambda z: z if abs(z) > 0.3217 else 0,
        lambda z: int(abs(z) > 0.3217),
        [-0.3217, 0.3217],
    ),
    "threshold": (
        nn.Threshold(0.1234, -1.0),
        lambda z: z if z > 0.1234 else -1,
        lambda z: int(z > 0.1234),
        [0.1234],
    ),
}


def by_mpmath(fn, kinks, mean: float = 0, std: float = 1) -> Any:
    """Integrate against the Gaussian with thirty digits, splitting at the kinks."""
    with mp.workdps(30):
        ends = sorted([*(mpmath.mpf(k) for k in kinks), *range(-14, 15, 2)])
        ends = [(z - mean) / std for z in ends if abs((z - mean) / std) < 14]
        return mpmath.quad(lambda t: fn(mean + std * t) * mpmath.npdf(t), [-14, *ends, 14])


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_gains_agree_with_mpmath_to_nine_digits(name, backward):
    module, curve, slope, kinks = CURVES[name]
    fn = slope if backward else curve
    expected = 1 / mpmath.sqrt(by_mpmath(lambda z: fn(z) ** 2, kinks))
    assert gain(module, backward=backward) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("module", "forward", "backward"),
    [
        (nn.ReLU(), 1.4142, 1.4142),
        (nn.Tanh(), 1.5925, 1.4674),
        (nn.Sigmoid(), 1.8462, 4.7226),
        (nn.GELU(), 1.5335, 1.4811),
        (nn.SiLU(), 1.6765, 1.6233),
        (nn.ELU(), 1.2452, 1.2234),
        (nn.SELU(), 1.0000, 0.9660),
        (nn.Mish(), 1.4868, None),
        (nn.Hardtanh(), 1.3920, None),
    ],
    ids=str,
)
def test_gains_are_the_published_ones(module, forward, backward):
    assert gain(module) == pytest.approx(forward, abs=5e-5)
    if backward:
        assert gain(module, backward=True) == pytest.approx(backward, abs=5e-5)


@pytest.mark.parametrize(("mean", "var"), [(0.0, 4.0), (1.3, 0.2), (-2.0, 9.0)])
@pytest.mark.parametrize("name", ["relu", "tanh", "hardshrink"])
def test_moments_of_any_gaussian_signal_agree_with_mpmath(name, mean, var):
    module, curve, _, kinks = CURVES[name]
    law = activation_moments(module, Moments(mean, var))
    m = by_mpmath(curve, kinks, mean, math.sqrt(var))
    v = by_mpmath(lambda z: (curve(z) - m) ** 2, kinks, mean, math.sqrt(var))
    assert law.mean == pytest.approx(float(m), rel=1e-9, abs=1e-12)
    assert law.var == pytest.approx(float(v), rel=1e-9)
    assert law.count == 0


def test_a_jump_is_found_wherever_it_stands():
    # A hundred places, most of them close to where panels end; E[1{z > a}] = Φ(−a).
    places = torch.rand(100, generator=torch.Generator().manual_seed(0)).double() ** 4 / 2 - 0.25
    for a in places.tolist():
        law = activation_moments(lambda z, a=a: (z > a).double(), Moments(0.0, 1.0))
        assert law.mean == pytest.approx(0.5 * math.erfc(a / math.sqrt(2)), rel=1e-9)


def test_relu_halves_the_second_moment():
    law = activation_moments(nn.ReLU(), Moments(0.0, 1.0))
    assert law.second_moment == pytest.approx(0.5, rel=1e-12)
    assert law.mean == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)


def test_a_large_mean_leaves_the_variance_its_digits():
    law = activation_moments(nn.Identity(), Moments(1e7, 1.0))
    assert law.var == pytest.approx(1.0, rel=1e-7)


def test_a_signal_that_does_not_vary_comes_out_as_it_is_mapped():
    law = activation_moments(torch.exp, Moments(1.0, 0.0))
    assert law.mean == pytest.approx(math.e, rel=1e-12)
    assert law.var == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize("var", [1e-12, 1e6, 1e30])
def test_relu_knows_no_scale(var):
    law = activation_moments(nn.ReLU(), Moments(0.0, var))
    assert law.second_moment == pytest.approx(var / 2, rel=1e-9)


def test_a_gain_keeps_the_signal_of_a_deep_stack():
    # Width 1024, depth 20: log of the second moment of one input wanders by √(5·20/1024) = 0.31,
    # of a batch by less; e^(±5·0.31) holds it but once in 3 million.
    net = mlp(1024, 20, nn.ReLU, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(torch.randn(64, 1024, generator=torch.Generator().manual_seed(1)))
    assert abs(math.log(Moments.of(y).second_moment)) < 5 * 0.31


def test_in_place_activations_and_plain_functions_have_the_same_gain():
    assert gain(nn.ReLU(inplace=True)) == gain(torch.relu) == gain(nn.ReLU())
    assert gain(nn.ELU(inplace=True), backward=True) == gain(nn.ELU(), backward=True)
    assert gain(torch.relu_) == gain(torch.relu)


def test_modules_with_weights_are_measured_in_double_and_left_as_they_were():
    prelu = nn.PReLU(init=0.25)
    assert gain(prelu) == pytest.approx(1 / math.sqrt((1 + 0.0625) / 2), rel=1e-9)
    assert gain(prelu, backward=True) == pytest.approx(1 / math.sqrt((1 + 0.0625) / 2), rel=1e-9)
    assert prelu.weight.dtype == torch.float32
    assert prelu.weight.grad is None


def test_a_function_that_computes_in_float32_is_measured_to_its_precision():
    assert gain(lambda z: z.float().tanh()) == pytest.approx(gain(torch.tanh), rel=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter(mode):
    with mode():
        assert gain(torch.tanh, backward=True) == pytest.approx(1.4674, abs=5e-5)
        assert gain(torch.tanh) == pytest.approx(1.5925, abs=5e-5)


def test_random_numbers_are_left_where_they_were():
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="Dropout is random"):
        gain(nn.Dropout(0.5))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("fn", "error", "words"),
    [
        (nn.GLU(), ValueError, r"GLU changes the shape, \(6, 8\) to \(6, 4\)"),
        (nn.Softmax(dim=-1), ValueError, "Softmax mixes entries"),
        (nn.Softmax(dim=0), ValueError, "Softmax mixes entries"),
        (nn.LayerNorm(8), ValueError, "LayerNorm fails on a float64 tensor of shape"),
        (lambda z: z - z.mean(), ValueError, "<lambda> mixes entries"),
        (nn.RReLU(), ValueError, r"RReLU is random: two calls differ; call .eval\(\)"),
        (torch.log, ValueError, r"the function is nan at -12; .* is finite everywhere"),
        (lambda z: 1 / (z - 0.1234567), ValueError, "the function has a pole"),
        (lambda z: torch.exp(z * z), ValueError, "grows so fast"),
        (lambda z: 0 * z, ValueError, "<lambda> is zero everywhere on the line"),
        (lambda z: z.tolist(), TypeError, "<lambda> must return a tensor, got list"),
        (lambda z: z + 1j, TypeError, "must return real numbers, got torch.complex128"),
        (nn.ReLU, TypeError, r"got the class ReLU; write ReLU\(\)"),
        ("relu", TypeError, "expected a function or a module, got 'relu'"),
    ],
)
def test_what_has_no_gain_is_refused_by_name(fn, error, words):
    with pytest.raises(error, match=words):
        gain(fn)


def test_a_derivative_that_is_zero_or_missing_has_no_gain():
    with pytest.raises(ValueError, match="sign has a derivative of zero everywhere"):
        gain(torch.sign, backward=True)
    with pytest.raises(ValueError, match="has a derivative of zero everywhere"):
        gain(lambda z: (z > 0).double(), backward=True)
    with pytest.raises(ValueError, match="the function is nan"):
        gain(torch.log, backward=True)


def test_a_signal_that_ended_has_no_moments_after():
    with pytest.raises(ValueError, match="the signal must have finite moments, got mean nan"):
        activation_moments(torch.relu, Moments(math.nan, math.nan))
