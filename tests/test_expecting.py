"""What a layer should make of its own input: unbiased, with bands that hold and are sharp."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom
from torch import nn
from transformers.pytorch_utils import Conv1D

from handwave.expecting import _from_squares, expect
from handwave.sums import is_sum

DRAWS = 250


def smooth(*shape):
    """Images of few frequencies: neighbours are alike, so positions are not independent."""
    coarse = torch.randn(*shape[:2], *[3] * (len(shape) - 2))
    mode = {3: "linear", 4: "bicubic", 5: "trilinear"}[len(shape)]
    return nn.functional.interpolate(coarse, shape[2:], mode=mode, align_corners=False)


def low_rank(batch, units):
    """Inputs that lie in a plane of three dimensions."""
    return torch.randn(batch, 3) @ torch.randn(3, units)


INPUTS = {
    "noise": torch.randn,
    "rectified": lambda *shape: torch.randn(*shape).relu(),
    "off centre": lambda *shape: torch.randn(*shape) + 2,
    "one input": lambda *shape: torch.randn(1, *shape[1:]).expand(shape).contiguous(),
    "smooth": lambda *shape: smooth(*shape) if len(shape) > 2 else low_rank(*shape),
}

LAYERS = {
    "Linear": (lambda: nn.Linear(40, 24), (16, 40)),
    "Linear without bias": (lambda: nn.Linear(40, 24, bias=False), (16, 40)),
    "Linear of sequences": (lambda: nn.Linear(24, 16), (4, 6, 24)),
    "Conv1D": (lambda: Conv1D(24, 40), (4, 5, 40)),
    "Conv1d": (lambda: nn.Conv1d(6, 12, 5), (8, 6, 20)),
    "Conv2d": (lambda: nn.Conv2d(6, 12, 3), (8, 6, 10, 10)),
    "Conv2d padded": (lambda: nn.Conv2d(6, 12, 3, padding=1), (8, 6, 6, 6)),
    "Conv2d circular": (
        lambda: nn.Conv2d(6, 12, 3, padding=1, padding_mode="circular"),
        (8, 6, 6, 6),
    ),
    "Conv2d reflected": (
        lambda: nn.Conv2d(6, 12, 3, padding=1, padding_mode="reflect"),
        (8, 6, 6, 6),
    ),
    "Conv2d grouped": (lambda: nn.Conv2d(8, 16, 3, groups=2), (8, 8, 8, 8)),
    "Conv2d depthwise": (lambda: nn.Conv2d(16, 16, 3, groups=16, padding=1), (8, 16, 8, 8)),
    "Conv2d strided": (lambda: nn.Conv2d(6, 12, 3, stride=2), (8, 6, 11, 11)),
    "Conv2d dilated": (lambda: nn.Conv2d(6, 12, 3, dilation=2), (8, 6, 11, 11)),
    "Conv3d": (lambda: nn.Conv3d(4, 8, 3, padding=1), (4, 4, 5, 5, 5)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 12, 4, stride=2), (8, 6, 10)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 12, 3, stride=2), (8, 6, 6, 6)),
    "ConvTranspose2d grouped": (
        lambda: nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1, groups=2),
        (8, 8, 6, 6),
    ),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 8, 3, stride=2), (2, 4, 3, 3, 3)),
}


def normal(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.0, 0.1)


def uniform(layer):
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.2, 0.2)


def draws(layer, inputs, draw, look=20):
    """Draw the layer's weights anew, again and again: measured, expected, and the band's ends.

    How far the ends stand from what is expected hardly differs between draws of one layer, and
    takes long to tell: it is asked anew at every `look`th draw.
    """
    found, ends = [], []
    for number in range(DRAWS):
        draw(layer)
        if number % look == 0 or not is_sum(layer):
            expected = expect(layer, inputs, {})
            assert expected
            ends = [end / expected.signal.second_moment for end in expected.band]
        else:
            expected, *_ = _from_squares(layer, *inputs)
        with torch.no_grad():
            output = layer(*inputs)
        second = float(output.double().square().mean())
        middle = expected.signal.second_moment
        found.append((second, middle, *(end * middle for end in ends)))
    return torch.tensor(found, dtype=torch.float64).T


def hold(drawn):
    """Hold draws to coverage, expectation and sharpness; return the three figures.

    False alarms: coverage 1e-6 (binomial); bias 1e-6 (|z| < 4.9, of 250 draws of a ratio).
    """
    measured, expected, low, high = drawn
    inside = int(((low <= measured) & (measured <= high)).sum())
    ratio = measured / expected
    z = float((ratio.mean() - 1) / (ratio.std() / math.sqrt(len(ratio))))
    ends = ratio.log().quantile(torch.tensor([0.005, 0.995], dtype=torch.float64))
    width = float((high / low).log().mean() / (ends[1] - ends[0]))
    print(f"covered {inside} of {len(ratio)}, z {z:.1f}, width {width:.2f}")
    assert binom.cdf(inside, len(ratio), 0.99) > 1e-6, inside
    assert abs(z) < 4.9, z
    return inside / len(ratio), z, width


CASES = [(layer, kind, normal) for layer in LAYERS for kind in INPUTS]
CASES += [(layer, "rectified", uniform) for layer in ("Linear", "Conv2d padded", "Conv1D")]


@pytest.mark.parametrize(("name", "kind", "draw"), CASES)
def test_a_layer_makes_what_its_input_lets_expect(name, kind, draw):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    width = hold(draws(make(), (INPUTS[kind](*shape),), draw))[2]
    assert width <= 1.5


def attention():
    return nn.MultiheadAttention(16, 2, batch_first=True)


OTHERS = {
    "Embedding": (lambda: nn.Embedding(60, 8), lambda: (torch.randint(0, 60, (8, 12)),)),
    "MultiheadAttention": (attention, lambda: (torch.randn(4, 6, 16),) * 3),
    "LSTM": (lambda: nn.LSTM(12, 16), lambda: (torch.randn(6, 4, 12),)),
    "GRU": (lambda: nn.GRU(12, 16), lambda: (torch.randn(6, 4, 12),)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_bands_cover_layers_without_one_weight(name):
    """A sample of 16 draws tells its own error only on average: no claim of sharpness here.

    False alarms: 1e-6 (binomial, 100 looks at a rate of 0.99).
    """
    torch.manual_seed(0)
    make, given = OTHERS[name]
    layer, inputs, inside = make(), given(), 0
    for _ in range(100):
        for parameter in layer.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.3)
        expected = expect(layer, inputs, {})
        assert expected
        with torch.no_grad():
            output = layer(*inputs)
        second = float((output[0] if isinstance(output, tuple) else output).square().mean())
        inside += expected.band[0] <= second <= expected.band[1]
    print(f"{name}: covered {inside} of 100")
    assert binom.cdf(inside, 100, 0.99) > 1e-6, inside


def test_an_embedding_is_expected_to_be_its_weights():
    torch.manual_seed(0)
    layer = nn.Embedding(2000, 64)
    expected = expect(layer, (torch.randint(0, 2000, (32, 50)),), {})
    assert expected
    assert expected.signal.second_moment == pytest.approx(1, rel=0.02)
    assert expected.band[1] / expected.band[0] < 1.1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nothing_is_expected_of_what_is_not_finite(value):
    layer = nn.Linear(4, 4)
    assert expect(layer, (torch.full((2, 4), value),), {}) is None
    with torch.no_grad():
        layer.weight[0, 0] = value
    assert expect(layer, (torch.randn(2, 4),), {}) is None


@pytest.mark.parametrize(
    ("bias", "share"), [(0.0, 1.0), (-0.9, 1.0), (1.0, 0.25)], ids=["none", "against", "along"]
)
def test_the_mean_of_the_weights_makes_no_more_than_there_is(bias, share):
    """Four weights of 0.25 make 1 of four ones, and a bias takes from it or adds to it."""
    layer = nn.Linear(4, 8)
    nn.init.constant_(layer.weight, 0.25)
    nn.init.constant_(layer.bias, bias)
    expected = expect(layer, (torch.ones(16, 4),), {})
    assert expected
    assert expected.common == pytest.approx(share)


def test_looking_draws_from_a_copy():
    torch.manual_seed(0)
    layer = attention()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    expect(layer, (torch.randn(2, 3, 16),) * 3, {})
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
