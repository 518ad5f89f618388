"""Gains: every elementwise activation of torch.nn, held to mpmath in both directions."""

import math
from typing import Any

import mpmath
import pytest
import torch
from mpmath import exp, expm1, log1p, mp, mpf, ncdf, npdf, tanh
from torch import nn

from handwave import Moments, activation_moments, gain

SELU_ALPHA = mpf("1.6732632423543772848170429916717")  # Klambauer et al. 2017
SELU_SCALE = mpf("1.0507009873554804934193349852946")
RATE = float(torch.tensor(0.3))  # as a float32 parameter holds it


def sigmoid(z):
    return 1 / (1 + exp(-z))


def softplus(z):
    return max(z, 0) + log1p(exp(-abs(z)))


def between(z, low, high):
    return max(low, min(high, z))


def leaky(rate):
    return lambda z: z if z > 0 else mpf(rate) * z


def gelu_by_tanh(z):
    return z / 2 * (1 + tanh(mpmath.sqrt(2 / mp.pi) * (z + mpf("0.044715") * z**3)))


# (module, the function in mpmath, where it has kinks or jumps). Their places are away from the
# ends of the quadrature's panels wherever a module lets them.
CURVES = {
    "threshold": (nn.Threshold(0.1234, -1.0), lambda z: z if z > 0.1234 else mpf(-1), [0.1234]),
    "relu": (nn.ReLU(), lambda z: max(z, 0), [0]),
    "rrelu, eval": (nn.RReLU(0.125, 0.375).eval(), leaky(0.25), [0]),
    "hardtanh": (
        nn.Hardtanh(-0.7, 1.9),
        lambda z: between(z, mpf(-0.7), mpf(1.9)),
        [-0.7, 1.9],
    ),
    "relu6": (nn.ReLU6(), lambda z: between(z, 0, 6), [0, 6]),
    "sigmoid": (nn.Sigmoid(), sigmoid, []),
    "hardsigmoid": (nn.Hardsigmoid(), lambda z: between(z / 6 + mpf(0.5), 0, 1), [-3, 3]),
    "tanh": (nn.Tanh(), tanh, []),
    "silu": (nn.SiLU(), lambda z: z * sigmoid(z), []),
    "mish": (nn.Mish(), lambda z: z * tanh(softplus(z)), []),
    "hardswish": (nn.Hardswish(), lambda z: z * between(z + 3, 0, 6) / 6, [-3, 3]),
    "elu": (nn.ELU(0.7), lambda z: z if z > 0 else mpf(0.7) * expm1(z), [0]),
    # torch rounds CELU's alpha to float32 on the way back: a half stays a half.
    "celu": (nn.CELU(0.5), lambda z: z if z > 0 else expm1(2 * z) / 2, [0]),
    "selu": (
        nn.SELU(),
        lambda z: SELU_SCALE * (z if z > 0 else SELU_ALPHA * expm1(z)),
        [0],
    ),
    "gelu": (nn.GELU(), lambda z: z * ncdf(z), []),
    "gelu by tanh": (nn.GELU(approximate="tanh"), gelu_by_tanh, []),
    "hardshrink": (
        nn.Hardshrink(0.3217),
        lambda z: z if abs(z) > 0.3217 else mpf(0),
        [-0.3217, 0.3217],
    ),
    "leaky relu": (nn.LeakyReLU(0.2), leaky(0.2), [0]),
    "logsigmoid": (nn.LogSigmoid(), lambda z: -softplus(-z), []),
    "softplus": (nn.Softplus(), softplus, []),
    # Linear, with a jump, beyond beta·z = threshold.
    "softplus, sharp": (
        nn.Softplus(2, 1.25),
        lambda z: softplus(2 * z) / 2 if z <= 0.625 else z,
        [0.625],
    ),
    "softshrink": (
        nn.Softshrink(0.41),
        lambda z: mpmath.sign(z) * max(abs(z) - mpf(0.41), 0),
        [-0.41, 0.41],
    ),
    "prelu": (nn.PReLU(init=0.3), leaky(RATE), [0]),
    "softsign": (nn.Softsign(), lambda z: z / (1 + abs(z)), [0]),
    "tanhshrink": (nn.Tanhshrink(), lambda z: z - tanh(z), []),
    "identity": (nn.Identity(), lambda z: z, []),
    "dropout, eval": (nn.Dropout(0.5).eval(), lambda z: z, []),
}
# How exact torch's own derivative is: it divides by six in float32.
SLOPES = {"hardsigmoid": 1e-7}
NOT_ELEMENTWISE = {"GLU", "MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}


def by_mpmath(fn, kinks, mean: float = 0, std: float = 1) -> Any:
    """Integrate against the Gaussian with twenty digits, splitting at the kinks."""
    with mp.workdps(20):
        ends = sorted([*(mpf(k) for k in kinks), *range(-14, 15, 2)])
        ends = [(z - mean) / std for z in ends if abs((z - mean) / std) < 14]
        return mpmath.quad(lambda t: fn(mean + std * t) * npdf(t), [-14, *ends, 14])


def test_every_activation_of_torch_is_held_to_mpmath_or_is_not_elementwise():
    held = {type(module).__name__ for module, _, _ in CURVES.values()}
    assert held >= set(nn.modules.activation.__all__) - NOT_ELEMENTWISE


@pytest.mark.parametrize("name", CURVES)
def test_forward_gains_agree_with_mpmath_to_nine_digits(name):
    module, curve, kinks = CURVES[name]
    expected = 1 / mpmath.sqrt(by_mpmath(lambda z: curve(z) ** 2, kinks))
    assert gain(module) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("name", CURVES)
def test_backward_gains_agree_with_mpmath_to_nine_digits(name):
    module, curve, kinks = CURVES[name]
    expected = 1 / mpmath.sqrt(by_mpmath(lambda z: mpmath.diff(curve, z) ** 2, kinks))
    rel = SLOPES.get(name, 1e-9)
    assert gain(module, backward=True) == pytest.approx(float(expected), rel=rel)


@pytest.mark.parametrize(("mean", "var"), [(1.3, 0.2), (-2.0, 9.0)])
@pytest.mark.parametrize("name", CURVES)
def test_moments_of_any_gaussian_signal_agree_with_mpmath(name, mean, var):
    module, curve, kinks = CURVES[name]
    law = activation_moments(module, Moments(mean, var))
    m = by_mpmath(curve, kinks, mean, math.sqrt(var))
    v = by_mpmath(lambda z: (curve(z) - m) ** 2, kinks, mean, math.sqrt(var))
    assert law.mean == pytest.approx(float(m), rel=1e-9, abs=1e-12)
    assert law.var == pytest.approx(float(v), rel=1e-9)
    assert law.count == 0


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
