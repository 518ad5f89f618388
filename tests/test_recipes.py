"""Recipes: which one made a weight is read from its numbers, and nothing is read into others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from transformers.pytorch_utils import Conv1D

from handwave import Moments, variance_scaling_
from handwave.recipes import Place, flaw, off_centre, packed, recipe, symmetry, weights

BEHIND_RELU = Place(kept=0.5, lossy=True)
MIDDLE = Place()


def told(layer, place):
    found = recipe(layer, Moments.of(layer.weight), place)
    return found.name if found else ""


def he(layer):
    variance_scaling_(layer, 2.0)
    return layer


def lecun(layer):
    variance_scaling_(layer)
    return layer


LAYERS = [
    lambda: nn.Linear(48, 96),
    lambda: nn.Linear(96, 48),
    lambda: nn.Conv1d(16, 48, 5),
    lambda: nn.Conv2d(24, 12, 3, stride=2),
    lambda: nn.Conv2d(32, 32, 5, groups=32),
    lambda: nn.Conv3d(8, 8, 3),
    lambda: nn.ConvTranspose2d(24, 48, 4, stride=2),
    lambda: Conv1D(96, 48),
]


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("seed", range(5))
def test_the_right_recipe_for_its_place_has_no_word(make, seed):
    torch.manual_seed(seed)
    assert told(he(make()), BEHIND_RELU) == ""
    assert told(lecun(make()), MIDDLE) == ""


@pytest.mark.parametrize("make", LAYERS)
def test_lecun_behind_a_relu_misses_its_gain(make):
    torch.manual_seed(0)
    assert "gain missing" in told(lecun(make()), BEHIND_RELU)


@pytest.mark.parametrize(
    "kind",
    [
        lambda: nn.Linear(48, 96),
        lambda: nn.Conv2d(8, 16, 3),
    ],
)
@pytest.mark.parametrize("place", [MIDDLE, BEHIND_RELU, Place(last=True)])
def test_torchs_default_is_known_wherever_it_stands(kind, place):
    torch.manual_seed(0)
    layer = kind()
    assert told(layer, place) == "default init"


def test_a_normal_draw_of_the_same_variance_is_not_torchs_default():
    torch.manual_seed(0)
    layer = nn.Linear(96, 96)
    nn.init.normal_(layer.weight, 0, (1 / 288) ** 0.5)
    assert told(layer, MIDDLE) == ""


def test_a_norm_behind_forgives_every_recipe():
    torch.manual_seed(0)
    assert told(lecun(nn.Linear(48, 96)), Place(0.5, True, rescued=True)) == ""


@pytest.mark.parametrize("place", [MIDDLE, BEHIND_RELU])
def test_the_wrong_fan_is_named_where_it_gives_the_variance_of_torchs_default_too(place):
    torch.manual_seed(0)
    layer = nn.Linear(128, 384)
    variance_scaling_(layer, mode="fan_out")  # 1/384 is 1/(3·128)
    assert told(layer, place) == "transposed fan or default init"
    layer.reset_parameters()
    assert told(layer, place) == "default init"


def test_a_scale_that_no_recipe_gives_is_not_named():
    torch.manual_seed(0)
    layer = nn.Linear(48, 96)
    nn.init.normal_(layer.weight, 0, 0.7)
    assert told(layer, BEHIND_RELU) == ""


def test_a_packed_projection_is_told_from_a_wide_layer():
    weight = torch.empty(144, 48)
    torch.manual_seed(0)
    law = Moments.of(nn.init.xavier_uniform_(weight))
    found = packed(law, 48.0, 3.0)
    assert found
    assert found.name == "packed q/k/v"
    assert packed(law, 48.0, 2.0) is None
    assert packed(Moments.of(nn.init.normal_(weight, 0, 48**-0.5)), 48.0, 3.0) is None


def twins(layer, axis=0):
    """Give the second half of a layer's units the weights of the first."""
    with torch.no_grad():
        first, second = layer.weight.chunk(2, dim=axis)
        second.copy_(first)
    return layer


SAME_UNITS = [
    lambda: twins(nn.Linear(8, 6)),
    lambda: twins(nn.Conv2d(3, 6, 3)),
    lambda: twins(nn.ConvTranspose2d(3, 6, 3), axis=1),
    lambda: twins(Conv1D(6, 8), axis=1),
]


@pytest.mark.parametrize("make", SAME_UNITS)
def test_units_that_are_copies_are_counted(make):
    found = symmetry(make())
    assert found
    assert (found.name, found.grave) == ("weights copied", True)
    assert found.sentence.startswith("6 of its 6 units")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 6),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        Conv1D(6, 8),
        nn.Linear(1, 6),
        nn.Linear(6, 1),
    ],
)
def test_fresh_units_are_no_copies(layer):
    assert symmetry(layer) is None
    assert flaw(layer) is None


def test_the_same_weights_in_two_groups_see_different_inputs():
    layer = nn.Conv2d(4, 4, 3, groups=2)
    with torch.no_grad():
        layer.weight[2:] = layer.weight[:2]
    assert symmetry(layer) is None


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 6), lambda: nn.ConvTranspose1d(4, 6, 3)])
@pytest.mark.parametrize(("value", "name"), [(0.0, "all zeros"), (0.1, "constant")])
def test_a_constant_is_symmetric(make, value, name):
    layer = make()
    nn.init.constant_(layer.weight, value)
    found = symmetry(layer)
    assert found
    assert (found.name, found.grave, found.verdict) == (name, True, "symmetric")


def attention_with_zeros(names, kdim=None):
    layer = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=kdim)
    with torch.no_grad():
        for name in names:
            weights(layer)[name].zero_()
    return layer


@pytest.mark.parametrize("kdim", [None, 6], ids=["packed", "apart"])
@pytest.mark.parametrize(
    ("names", "wanted", "sentence"),
    [
        (["q", "k"], True, "its q, k weights are all zero: what it attends to does not depend"),
        (["v", "out_proj"], True, "its v, out_proj weights are all zero: what comes out does not"),
        (["v"], False, "its v weights are all zero: what comes out does not depend"),
        (["v"], True, "its v weights are all zero, as is often wanted"),
        (["q", "out_proj"], True, "its q, out_proj weights are all zero, as is often wanted"),
    ],
)
def test_zeros_that_keep_each_other_in_attention_are_never_wanted(names, wanted, sentence, kdim):
    found = symmetry(attention_with_zeros(names, kdim), wanted)
    assert found
    assert found.sentence.startswith(sentence)
    assert found.grave is ("does not" in sentence)


@pytest.mark.parametrize("name", ["q", "k"])
def test_queries_of_zero_learn_from_their_keys(name):
    layer = attention_with_zeros([name])
    assert symmetry(layer) is None
    x = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
    (layer(x, x, x)[0] * torch.arange(8.0)).sum().backward()
    gradient: Any = layer.in_proj_weight.grad
    taught = dict(zip("qkv", (bool(part.any()) for part in gradient.chunk(3)), strict=True))
    assert taught[name]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e20, -1e20])
@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 6), lambda: nn.Embedding(6, 4)])
def test_one_absurd_entry_is_enough(make, value):
    layer: Any = make()
    with torch.no_grad():
        layer.weight[1, 2] = value
    found = flaw(layer)
    assert found
    assert (found.name, found.grave) == ("never initialised", True)
    assert "weight" in found.sentence


def test_an_absurd_bias_is_found_as_well():
    layer: Any = nn.LSTM(4, 4)
    with torch.no_grad():
        layer.bias_hh_l0[1] = torch.nan
    found = flaw(layer)
    assert found
    assert "bias_hh_l0 holds NaN" in found.sentence


def test_only_tiny_numbers_are_memory_too():
    layer = nn.Linear(8, 6)
    nn.init.constant_(layer.weight, 4.6e-41)
    assert flaw(layer)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_scale_alone_is_no_sign_of_memory(scale):
    layer = nn.Linear(8, 6)
    with torch.no_grad():
        layer.weight.mul_(scale)
    assert flaw(layer) is None


def test_sparse_weights_are_written():
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    nn.init.sparse_(layer.weight, 0.9)
    assert flaw(layer) is None


def test_a_parametrized_weight_is_looked_at_as_it_is_used():
    layer: Any = parametrizations.weight_norm(nn.Linear(8, 6))
    layer.parametrizations.weight.original0.data[1] = torch.nan
    assert flaw(layer)


def test_weights_that_decayed_are_written():
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight[:40] *= 1e-9
    assert flaw(layer) is None


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 10), (32, 4), (48, 10), (16, 32)])
@pytest.mark.parametrize("place", [MIDDLE, BEHIND_RELU, Place(0.5, True, last=True)])
def test_few_weights_whatever_their_size_match_no_wrong_fan(inputs, outputs, place):
    torch.manual_seed(0)
    for step in range(-9, 19):
        layer = lecun(nn.Linear(inputs, outputs))
        with torch.no_grad():
            layer.weight.mul_(2 ** (step / 6))
        assert told(layer, place) == ""


@pytest.mark.parametrize("scale", [0.7, 0.8, 0.88, 1.1])
@pytest.mark.parametrize("outputs", [10, 32])
def test_a_default_that_was_scaled_is_none_any_more(scale, outputs):
    for seed in range(20):
        torch.manual_seed(seed)
        layer = nn.Linear(32, outputs)
        assert told(layer, MIDDLE) == "default init"
        with torch.no_grad():
            layer.weight.mul_(scale)
        assert told(layer, MIDDLE) == ""


def test_a_layer_that_keeps_its_signal_is_blamed_for_no_recipe():
    torch.manual_seed(0)
    layer = lecun(nn.Linear(48, 160))
    assert told(layer, BEHIND_RELU) == "gain missing"
    assert told(layer, Place(0.5, True, steady=True)) == ""


def test_few_weights_drawn_around_zero_are_not_off_centre():
    """By chance their mean is as large as their deviation; false alarm of the test: 2e-5."""
    torch.manual_seed(0)
    for inputs, outputs in [(1, 1), (1, 2), (3, 1), (2, 2), (4, 2)]:
        for _ in range(200):
            weight = nn.init.normal_(nn.Linear(inputs, outputs).weight)
            assert not off_centre(Moments.of(weight))


@pytest.mark.parametrize(("outputs", "std"), [(2, 0.05), (8, 0.3), (200, 2.0)])
def test_the_fewer_weights_the_farther_off_is_a_mean_that_is_no_chance(outputs, std):
    torch.manual_seed(0)
    weight = nn.init.normal_(nn.Linear(4, outputs).weight, 1.0, std)
    assert off_centre(Moments.of(weight))


def test_weights_with_a_mean_come_from_no_recipe():
    torch.manual_seed(0)
    layer = nn.Linear(192, 48)
    nn.init.uniform_(layer.weight, 0, 2 * (3 / 192) ** 0.5)  # E[w²] is 1/48
    assert told(layer, BEHIND_RELU) == ""
    assert "transposed fan" in told(lecun_of_the_other_fan(layer), BEHIND_RELU)


def lecun_of_the_other_fan(layer):
    variance_scaling_(layer, mode="fan_out")
    return layer


def test_only_what_is_split_is_packed():
    torch.manual_seed(0)
    layer = nn.Linear(48, 144)
    nn.init.xavier_uniform_(layer.weight)
    assert told(layer, Place(split=True)) == "packed q/k/v"
    assert told(layer, MIDDLE) == ""
