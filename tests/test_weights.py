"""Weights: whatever the distribution, Var(w) = scale/fan."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from handwave import Moments, variance_scaling_
from handwave.weights import Distribution

DISTRIBUTIONS: list[Distribution] = ["normal", "truncated_normal", "uniform", "orthogonal"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 300), ("fan_out", 500), ("fan_avg", 400)])
def test_the_variance_is_scale_over_fan_whatever_the_distribution(distribution, mode, fan):
    layer = nn.Linear(300, 500)
    drawn = variance_scaling_(layer, 2.0, mode, distribution, seeded())
    # 150,000 entries, at most normal tails: relative sd of the mean square below √(2/150,000).
    expected = pytest.approx(2.0 / fan, rel=5 * math.sqrt(2 / 150_000))
    assert Moments.of(drawn).second_moment == expected
    assert abs(Moments.of(drawn).mean) < 5 * math.sqrt(2.0 / fan / 150_000)


def test_each_distribution_has_its_own_shape():
    unit = {
        d: variance_scaling_(
            nn.Linear(400, 400), 400.0, distribution=d, generator=seeded()
        ).detach()
        for d in DISTRIBUTIONS
    }
    assert unit["uniform"].abs().max() == pytest.approx(math.sqrt(3), rel=1e-3)
    # A standard normal cut at 2 has standard deviation 0.8796.
    assert unit["truncated_normal"].abs().max() == pytest.approx(2 / 0.87962566, rel=1e-3)
    assert unit["normal"].abs().max() > 4
    kurtosis = (unit["normal"].double() ** 4).mean()
    assert kurtosis == pytest.approx(3, abs=5 * math.sqrt(96 / 160_000))


@pytest.mark.parametrize(("inputs", "outputs"), [(30, 50), (50, 30), (40, 40)])
def test_orthogonal_weights_are_a_multiple_of_an_isometry(inputs, outputs):
    w = variance_scaling_(nn.Linear(inputs, outputs), 2.0, distribution="orthogonal").double()
    square = w @ w.T if outputs <= inputs else w.T @ w
    expected = 2.0 / inputs * max(inputs, outputs) * torch.eye(min(inputs, outputs)).double()
    torch.testing.assert_close(square, expected, atol=1e-5, rtol=0)
    assert Moments.of(w).second_moment == pytest.approx(2.0 / inputs, rel=1e-6)


def test_xavier_and_he_are_torchs():
    layer = nn.Linear(1024, 256)
    he = variance_scaling_(layer, 2.0, generator=seeded()).clone()
    assert torch.equal(he, nn.init.kaiming_normal_(layer.weight, generator=seeded()))
    xavier = variance_scaling_(layer, 1.0, "fan_avg", "uniform", seeded()).clone()
    torch.testing.assert_close(xavier, nn.init.xavier_uniform_(layer.weight, generator=seeded()))


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
        (lambda: torch.empty(0, 3), ValueError, r"without entries cannot be drawn, got \(0, 3\)"),
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
        ({"scale": math.nan}, "scale must be a positive number, got nan"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_drawn(options, words):
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=words):
        variance_scaling_(layer, **options)
    assert torch.equal(layer.weight, before)
