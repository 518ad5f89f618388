"""Activations: which have a gain, what is refused, what is left as it was."""

import math
import random

import pytest
import torch
from torch import nn

from handwave import Moments, activation_moments, gain, mlp


def test_relu_halves_the_second_moment():
    law = activation_moments(nn.ReLU(), Moments(0.0, 1.0))
    assert law.second_moment == pytest.approx(0.5, rel=1e-12)
    assert law.mean == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)


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


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_module_with_a_weight_has_a_backward_gain_in_any_mode(mode):
    made_outside = nn.PReLU(init=0.25)
    with mode():
        for prelu in (made_outside, nn.PReLU(init=0.25)):
            slopes = (1 + 0.25**2) / 2
            assert gain(prelu, backward=True) == pytest.approx(slopes**-0.5, rel=1e-9)


@pytest.mark.parametrize("rate", [0.5, 1e-4])
def test_random_numbers_are_left_where_they_were(rate):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="Dropout is random"):
        gain(nn.Dropout(rate))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("fn", "error", "words"),
    [
        (nn.GLU(), ValueError, r"GLU changes the shape, \(6, 8\) to \(6, 4\)"),
        (nn.Softmax(dim=-1), ValueError, "Softmax mixes entries"),
        (nn.Softmax(dim=0), ValueError, "Softmax mixes entries"),
        (nn.Softmin(dim=-1), ValueError, "Softmin mixes entries"),
        (nn.LogSoftmax(dim=-1), ValueError, "LogSoftmax mixes entries"),
        (nn.Softmax2d(), ValueError, "Softmax2d fails on a float64 tensor of shape"),
        (nn.PReLU(8), ValueError, r"PReLU fails on a .* shape \(3, 5\), which .* numbers = 8"),
        (nn.PReLU(3), ValueError, r"PReLU fails on a float64 tensor of shape \(6, 8\), which an"),
        (nn.LayerNorm(8), ValueError, "LayerNorm fails on a float64 tensor of shape"),
        (lambda z: z - z.mean(), ValueError, "<lambda> mixes entries"),
        (lambda z: z - z.flatten()[0], ValueError, "<lambda> mixes entries"),
        (lambda z: z - z.flatten()[-1], ValueError, "<lambda> mixes entries"),
        (lambda z: z.sort(-1).values, ValueError, "<lambda> mixes entries"),
        (lambda z: z.flatten().sort().values.view_as(z), ValueError, "<lambda> mixes entries"),
        (lambda z: z.cummax(0).values, ValueError, "<lambda> mixes entries"),
        (lambda z: z.cumsum(-1), ValueError, "<lambda> mixes entries"),
        (lambda z: z * torch.arange(1, 1 + len(z))[:, None], ValueError, "<lambda> mixes entries"),
        (nn.RReLU(), ValueError, r"RReLU is random: .* call .eval\(\) first"),
        (nn.Dropout(0.5), ValueError, r"Dropout is random: it gives another answer each time"),
        (nn.AlphaDropout(0.5), ValueError, "AlphaDropout is random"),
        (lambda z: z * random.random(), ValueError, "<lambda> is random"),
        (torch.log, ValueError, r"the function is nan at -12; .* is finite everywhere"),
        (lambda z: 1 / z, ValueError, "the function is inf at 0; a function with a gain is fin"),
        (lambda z: 1 / (z - 0.1234567), ValueError, "the function is inf at 0.1235"),
        (lambda z: 1 / (z * z - 0.3).abs() ** 0.6, ValueError, "the function has a pole"),
        (lambda z: torch.exp(z * z), ValueError, "grows so fast that its second moment is inf"),
        (lambda z: torch.exp(z * z / 4), ValueError, "grows so fast that its second moment"),
        (lambda z: 0 * z, ValueError, "everywhere on the line: no gain makes up for that"),
        (lambda z: z.tolist(), TypeError, "must return a tensor, got list; wrap it in a function"),
        (lambda z: z + 1j, TypeError, "must return floating numbers, got torch.complex128; take"),
        (lambda z: z > 0, TypeError, "got torch.bool; end it in .to.z.dtype"),
        (lambda z: z.int(), TypeError, "must return floating numbers, got torch.int32; end it in"),
        (nn.MultiheadAttention(8, 2), TypeError, "missing 2 required positional arguments: 'key'"),
        (nn.ReLU, TypeError, r"got the class ReLU; write ReLU\(\)"),
        ("relu", TypeError, "expected a function or a module, got 'relu'"),
    ],
)
def test_what_has_no_gain_is_refused_by_name(fn, error, words, backward):
    with pytest.raises(error, match=words):
        gain(fn, backward=backward)
    if "everywhere on the line" not in words:
        with pytest.raises(error, match=words):
            activation_moments(fn, Moments(0.0, 1.0))


def test_a_function_without_a_slope_has_no_backward_gain():
    words = "has, as autograd sees it, a derivative of zero everywhere on the line"
    for step in (torch.sign, torch.round, lambda z: (z > 0).double(), lambda z: z.detach()):
        with pytest.raises(ValueError, match=words):
            gain(step, backward=True)
    with pytest.raises(ValueError, match="<lambda> is zero everywhere on the line"):
        gain(lambda z: 0 * z)


def test_a_signal_that_ended_has_no_moments_after():
    with pytest.raises(
        ValueError, match=r"must have finite moments, got mean nan .*; measure shows"
    ):
        activation_moments(torch.relu, Moments(math.nan, math.nan))


@pytest.mark.parametrize(
    ("signal", "came"),
    [((0, 1), r"\(0, 1\)"), (1.0, "1.0"), (None, "None"), (torch.ones(2), r"tensor\(\[1., 1.\]\)")],
)
def test_a_signal_that_is_no_moments_is_told_how_to_become_some(signal, came):
    words = rf"signal must be Moments, got {came}; write Moments\(mean, var\), or Moments.of\(x\)"
    with pytest.raises(TypeError, match=words):
        activation_moments(torch.relu, signal)


@pytest.mark.parametrize("backward", ["forward", Moments(0.0, 2.0), 1])
def test_a_direction_that_is_none_is_not_taken_for_backward(backward):
    with pytest.raises(
        TypeError, match=r"backward must be True or False, got .*activation_moments"
    ):
        gain(torch.relu, backward)


def test_a_function_without_a_derivative_in_torch_has_no_gain_backward():
    def step(z):
        return torch.heaviside(z, torch.zeros((), dtype=z.dtype))

    with pytest.raises(ValueError, match=r"step has no slope that torch knows: .*heaviside"):
        gain(step, backward=True)


def test_hooks_of_the_caller_see_nothing_of_a_gain():
    relu, calls = nn.ReLU(), []
    relu.register_forward_pre_hook(lambda *_: calls.append("before"))
    relu.register_forward_hook(lambda *_: calls.append("after"))
    assert gain(relu) == pytest.approx(math.sqrt(2))
    assert not calls
