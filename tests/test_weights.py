"""Weights: whatever the distribution, Var(w) = scale/fan."""

import math
import statistics

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from transformers.pytorch_utils import Conv1D

from handwave import Moments, variance_scaling_
from handwave.weights import Distribution

DISTRIBUTIONS: list[Distribution] = ["normal", "truncated_normal", "uniform", "orthogonal"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LAYERS = [
    (lambda: nn.Linear(20, 30), (8, 20)),
    (lambda: Conv1D(30, 20), (8, 20)),
    (lambda: nn.Conv1d(6, 8, 5, stride=2, groups=2), (4, 6, 40)),
    (lambda: nn.Conv2d(6, 6, 3, groups=6, padding=1), (4, 6, 16, 16)),
    (lambda: nn.Conv2d(3, 8, 3, stride=2, dilation=2), (4, 3, 24, 24)),
    (lambda: nn.Conv3d(2, 4, 3), (2, 2, 12, 12, 12)),
    (lambda: nn.ConvTranspose1d(6, 8, 3, stride=3, groups=2), (4, 6, 20)),
    (lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (4, 4, 12, 12)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 4, 12, 12)),
    (lambda: nn.ConvTranspose3d(2, 4, 2, stride=2), (2, 2, 6, 6, 6)),
]


def inner(signal):
    """Leave out what stands near an edge; every stride here divides 12."""
    for axis in range(2, signal.dim()):
        size = signal.shape[axis]
        span = size // 2 - size // 2 % 12 if size >= 24 else size // 2 // 2 * 2
        signal = signal.narrow(axis, (size - span) // 2, span)
    return float((signal**2).mean())


def one_draw(make, shape, options, generator):
    """Draw weights and inputs: the second moments of the output and of the input's gradient."""
    layer = make()
    variance_scaling_(layer, generator=generator, **options)
    layer.bias.data.zero_()
    x = torch.randn(shape, generator=generator).requires_grad_()
    y = layer(x)
    grad = torch.autograd.grad(y, x, torch.randn(y.shape, generator=generator))[0]
    return inner(y.detach()), inner(grad)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(("make", "shape"), LAYERS, ids=[str(make()) for make, _ in LAYERS])
def test_fan_in_keeps_the_signal_and_fan_out_the_gradient(make, shape, mode, distribution):
    options = {"scale": 2.0, "mode": mode, "distribution": distribution}
    generator = seeded()
    draws = [one_draw(make, shape, options, generator)[mode == "fan_out"] for _ in range(60)]
    error = statistics.stdev(draws) / math.sqrt(60)
    # Student's t with 59 degrees of freedom leaves ±7 with probability 3e-9; 80 cases.
    assert abs(statistics.mean(draws) - 2.0) < 7 * error
    assert error < 0.1


def test_he_keeps_the_signal_through_a_relu_layer():
    layer = nn.Linear(1000, 1000, bias=False)
    variance_scaling_(layer, 2.0, generator=seeded())
    x = torch.randn(1000, 1000, generator=seeded(1))
    # Relative variance about 2/1000 (weights) + 5/1000/1000 (entries): 5 sd are 0.23.
    with torch.no_grad():
        assert Moments.of(layer(x).relu()).second_moment == pytest.approx(1, rel=0.23)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_is_drawn_well(distribution, dtype):
    w = torch.empty(200, 300, dtype=dtype)
    assert variance_scaling_(w, distribution=distribution, generator=seeded()) is w
    assert Moments.of(w).second_moment == pytest.approx(1 / 300, rel=5 * math.sqrt(2 / 60_000))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_layout_in_memory_does_not_matter(distribution):
    plain = nn.Conv2d(4, 8, 3)
    last = nn.Conv2d(4, 8, 3)
    last.weight.data = last.weight.data.to(memory_format=torch.channels_last)
    expected = variance_scaling_(plain, distribution=distribution, generator=seeded())
    drawn = variance_scaling_(last, distribution=distribution, generator=seeded())
    assert torch.equal(drawn, expected)
    assert drawn.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("trained", [True, False])
def test_the_callers_grad_mode_does_not_matter(distribution, mode, trained):
    layer = nn.Linear(20, 30)
    layer.weight.requires_grad_(trained)
    with mode():
        drawn = variance_scaling_(layer, distribution=distribution, generator=seeded())
    expected = variance_scaling_(nn.Linear(20, 30), 1.0, "fan_in", distribution, seeded())
    assert torch.equal(drawn, expected)
    assert drawn.requires_grad is trained
    assert drawn.is_leaf


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_what_was_made_in_inference_mode_is_drawn_there_or_not_at_all(distribution):
    with torch.inference_mode():
        layer = nn.Linear(20, 30)
        variance_scaling_(layer, distribution=distribution)
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="made in inference mode can be drawn only there; make"):
        variance_scaling_(layer, distribution=distribution)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embeddings_row_has_the_scale_itself_and_its_padding_row_stays(kind):
    layer = kind(300, 200, padding_idx=-1)
    drawn = variance_scaling_(layer, 0.5, generator=seeded()).detach()
    # 59,800 normal entries: the mean square's relative sd is √(2/59,800); 6 sd are 2e-9.
    expected = pytest.approx(0.5, rel=6 * math.sqrt(2 / 59_800))
    assert Moments.of(drawn[:-1]).second_moment == expected
    assert not drawn[-1].any()


def test_the_queries_of_packed_attention_are_drawn_as_their_own_weight():
    layer = nn.MultiheadAttention(64, 4)
    before = layer.in_proj_weight.detach().clone()
    variance_scaling_(layer.in_proj_weight[:64], generator=seeded())
    # 4,096 normal entries: 6 relative sd of their mean square are 0.13, and 2e-9.
    queries = Moments.of(layer.in_proj_weight[:64])
    assert queries.second_moment == pytest.approx(1 / 64, rel=0.13)
    assert torch.equal(layer.in_proj_weight[64:], before[64:])
    assert layer.in_proj_weight.is_leaf


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_generator_decides_and_torchs_own_is_left_alone(distribution):
    state = torch.get_rng_state()
    a = variance_scaling_(torch.empty(20, 30), distribution=distribution, generator=seeded(3))
    b = variance_scaling_(torch.empty(20, 30), distribution=distribution, generator=seeded(3))
    assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())


def test_a_layer_keeps_its_parameter_and_its_bias():
    layer = nn.Linear(3, 4)
    weight, bias = layer.weight, layer.bias.detach().clone()
    assert variance_scaling_(layer) is weight
    assert layer.weight is weight
    assert weight.requires_grad
    assert weight.grad_fn is None
    assert torch.equal(layer.bias, bias)


def computed_in_the_old_way():
    with pytest.warns(FutureWarning):
        return weight_norm(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.LSTM(3, 3), ValueError, "LSTM has no one pair of fans.* pass one, such as"),
        (lambda: torch.empty(5), ValueError, r"needs two axes or more.*got shape \(5,\)"),
        (lambda: "fc", TypeError, "expected a layer or its weight, got str"),
        (lambda: torch.ones(3, 3, dtype=torch.int8), TypeError, "got torch.int8"),
        (
            lambda: torch.empty(0, 3),
            ValueError,
            r"without entries cannot be drawn, got shape \(0, 3\); give the layer inputs and",
        ),
        (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), ValueError, "is computed from"),
        (computed_in_the_old_way, ValueError, "is computed from other parameters; draw it before"),
        (lambda: nn.LazyLinear(3), ValueError, "a lazy layer has no weight yet; call the model"),
    ],
)
def test_what_has_no_weight_to_draw_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        variance_scaling_(make())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "fan"}, "mode must be one of fan_in, fan_out, fan_avg, got 'fan'"),
        ({"distribution": "gaussian"}, "one of normal, truncated_normal, .* got 'gaussian'"),
        ({"scale": 0.0}, "scale must be a positive number, got 0.0"),
        ({"scale": -1}, "scale must be a positive number, got -1; it is .* 2 for He's"),
        ({"scale": math.nan}, "scale must be a positive number, got nan"),
        ({"scale": "2"}, "scale must be a positive number, got '2'; it is .* 2 for He's"),
        ({"scale": torch.ones(2)}, r"scale must be a positive number, got tensor\(\[1., 1.\]\)"),
        ({"mode": ["fan_in"]}, r"mode must be one of .*, got \['fan_in'\]"),
        ({"scale": None}, "scale must be a positive number, got None"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_drawn(options, words):
    layer = nn.Linear(3, 3)
    before, state = layer.weight.detach().clone(), torch.get_rng_state()
    no_number = isinstance(options.get("scale", 1.0), str | torch.Tensor | None)
    with pytest.raises(TypeError if no_number else ValueError, match=words):
        variance_scaling_(layer, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layer.weight, before)
