"""Repairing: every layer at the target when measured again, whatever the layer is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetForImageClassification
from transformers.pytorch_utils import Conv1D

import repaired
from handwave import Moments, audit, measure, mlp
from handwave.repairing import repair_
from handwave.stacks import Residual

held, notes, Shared = repaired.held, repaired.notes, repaired.Shared

X, IMAGES, IDS = repaired.X, repaired.IMAGES, repaired.IDS


def convolution(kind, **options):
    axes = int(kind.__name__[-2])
    return nn.Sequential(kind(6, 12, 3, **options)), torch.randn(4, 6, *[9] * axes)


CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


@pytest.mark.parametrize("kind", CONVOLUTIONS + TRANSPOSED)
@pytest.mark.parametrize("options", [{}, {"groups": 2, "stride": 2, "padding": 1, "bias": False}])
def test_convolutions_reach_the_target(kind, options):
    torch.manual_seed(0)
    model, x = convolution(kind, **options)
    assert [row.scale != 1 for row in held(model, x, 2.5)] == [True]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(5, 6, 7)

    def forward(self, first, second):
        return self.layer(first, second)


def spaces():
    torch.manual_seed(0)
    yield "linear", nn.Linear(24, 7), X
    yield "three axes", nn.Linear(6, 7), torch.randn(3, 4, 6)
    yield "one input", nn.Linear(24, 7), X[0]
    yield "unbatched", nn.Conv2d(6, 7, 3), IMAGES[0]
    yield "circular", nn.Conv2d(6, 7, 3, padding=1, padding_mode="circular"), IMAGES
    yield "embedding", nn.Embedding(11, 8, padding_idx=0), IDS
    yield "bag", nn.EmbeddingBag(11, 8, mode="max"), IDS
    yield "bilinear", Pair(), (torch.randn(9, 5), torch.randn(9, 6))
    yield "Conv1D", Conv1D(7, 24), X
    yield "channels last", nn.Conv2d(6, 7, 3), IMAGES.to(memory_format=torch.channels_last)
    yield "float64", nn.Linear(24, 7).double(), X.double()
    yield "weight norm", parametrizations.weight_norm(nn.Conv2d(6, 7, 3)), IMAGES
    yield "pruned", prune.l1_unstructured(nn.Linear(24, 7), "weight", 0.5), X
    yield "dropout", nn.Sequential(nn.Dropout(0.5), nn.Linear(24, 9), nn.Dropout(0.5)), X


@pytest.mark.parametrize(
    ("model", "inputs"), [pytest.param(model, x, id=name) for name, model, x in spaces()]
)
def test_every_kind_of_layer_reaches_the_target(model, inputs):
    assert any(row.scale != 1 for row in held(model, inputs))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_the_older_weight_norm_is_scaled_by_its_norm():
    layer: Any = nn.utils.weight_norm(nn.Linear(24, 7))
    direction = layer.weight_v.clone()
    held(layer, X)
    assert torch.equal(layer.weight_v, direction)


@pytest.mark.parametrize("target", [0.01, 1, 30.0])
@pytest.mark.parametrize("std", [1e-6, 0.3, 1e6])
def test_deep_stacks_reach_the_target_in_one_run(std, target):
    model = mlp(24, 200, nn.ReLU, std, generator=torch.Generator().manual_seed(0))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    repair = repair_(model, X, target)
    assert len(calls) == 1
    trace = measure(model, X)
    assert all(
        trace[row.layer].signal.second_moment == pytest.approx(target, rel=1e-4) for row in repair
    )


def test_a_dead_stack_lives_after_it():
    model = mlp(24, 50, nn.ReLU, std=0.02, generator=torch.Generator().manual_seed(0))
    assert measure(model, X).layers[-1].signal.second_moment < 1e-20
    held(model, X)
    assert 0.3 < measure(model, X).layers[-1].signal.second_moment < 0.7


def test_biases_stay_and_count():
    torch.manual_seed(0)
    layers = [nn.Linear(24, 24) for _ in range(9)]
    model = nn.Sequential(*itertools.chain(*((layer, nn.ReLU(inplace=True)) for layer in layers)))
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value, 0.2, 0.4)
    biases = [layer.bias.clone() for layer in layers]
    held(model, X)
    assert all(torch.equal(a, layer.bias) for a, layer in zip(biases, layers, strict=True))


def test_a_bias_that_dwarfs_the_product_costs_no_digits():
    torch.manual_seed(0)
    layer = nn.Linear(24, 200)
    nn.init.normal_(layer.weight, std=1e-7)
    held(layer, X, target=2.0)
    product = nn.functional.linear(X, layer.weight)
    bias = layer.bias.double().square().mean().item()
    assert Moments.of(product).second_moment == pytest.approx(2 - bias, rel=0.2)


def test_a_bias_that_is_too_large_is_left_alone():
    layer = nn.Linear(24, 7)
    nn.init.constant_(layer.bias, 3.0)
    weight = layer.weight.clone()
    repair = repair_(layer, X)
    assert notes(repair) == {"Linear": "the bias alone has second moment 9"}
    assert torch.equal(layer.weight, weight)


def test_a_product_against_its_bias_can_reach_less_than_the_bias():
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, -0.5)
    nn.init.constant_(layer.bias, 3.0)
    repair = held(layer, torch.tensor([[1.0], [1.1]]), target=1.0)
    assert repair.rows[0].scale > 4  # the larger of two


def test_a_product_along_a_bias_that_is_too_large_is_not_turned_around():
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 0.5)
    nn.init.constant_(layer.bias, 3.0)
    repair = repair_(layer, torch.tensor([[1.0], [1.1]]))
    assert notes(repair) == {"Linear": "the bias alone has second moment 9"}


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoder_layers_reach_the_target(norm_first, train, batch_first):
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            24, 4, 48, dropout=0.1, batch_first=batch_first, norm_first=norm_first
        ),
        num_layers=2,
        enable_nested_tensor=False,
    ).train(train)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    repair = held(model, {"src": torch.randn(6, 6, 24), "mask": mask})
    scaled = [row.weight for row in repair if row.scale != 1]
    blocks = [f"in_proj_weight[{letter}]" for letter in "qkv"]
    assert scaled == [*blocks, "out_proj.weight", "weight", "weight"] * 2


@pytest.mark.parametrize("kdim", [None, 20])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_is_repaired_block_by_block(kdim, bias):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(24, 4, bias=bias, kdim=kdim, vdim=kdim, batch_first=True)
    if bias:
        nn.init.normal_(layer.in_proj_bias, 0.1, 0.5)
    context = torch.randn(3, 5, kdim or 24)
    query = 3 * torch.randn(3, 4, 24)
    held(layer, (query, context, 7 * context))
    weights = (
        (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        if kdim
        else layer.in_proj_weight.chunk(3)
    )
    biases = layer.in_proj_bias.chunk(3) if bias else (None, None, None)
    for x, w, b in zip((query, context, 7 * context), weights, biases, strict=True):
        projected = nn.functional.linear(x, w, b)
        assert Moments.of(projected).second_moment == pytest.approx(1, rel=1e-5)


def test_what_attention_refuses_it_refuses_in_its_own_words():
    layer = nn.MultiheadAttention(24, 4)
    with pytest.raises(AssertionError, match="was expecting embedding dimension of 24"):
        repair_(layer, (torch.randn(3, 2, 20),) * 3)
    with pytest.raises(TypeError, match=r"missing 2 required positional arguments"):
        repair_(layer, torch.randn(3, 2, 24))


def test_gpt2_reaches_the_target_and_its_tied_head_is_scaled_once():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=24, n_layer=2, n_head=4)
    model = GPT2LMHeadModel(config)
    repair = held(model, {"input_ids": torch.randint(0, 40, (3, 12))})
    assert notes(repair)["lm_head"] == "tied to transformer.wte"
    assert sum(row.scale != 1 for row in repair) == 2 + 2 * 4
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("train", [False, True])
def test_resnet_reaches_the_target_and_its_running_statistics_stay(train):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
    model = ResNetForImageClassification(config).train(train)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    repair = held(model, {"pixel_values": torch.randn(4, 3, 32, 32)})
    assert sum(row.scale != 1 for row in repair) == 1 + 3 * 2 + 1 + 1
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_a_residual_sum_is_left_alone_its_branches_are_not():
    torch.manual_seed(0)
    model = nn.Sequential(*(Residual(nn.Linear(24, 24, bias=False)) for _ in range(8)))
    held(model, X)
    with torch.no_grad():
        grown = Moments.of(model(X)).second_moment
    assert 4 < grown < 20  # eight branches of 1 each, and the input's 1


def test_a_weight_is_scaled_once_at_its_first_call():
    torch.manual_seed(0)
    model = Shared()
    repair = held(model, X)
    assert notes(repair) == {"first#2": "scaled at its first call", "other": "tied to first"}
    assert [row.layer for row in repair if row.scale != 1] == ["first", "last"]
    trace = measure(model, X)  # also where it was left alone, what was seen is what will be
    for row in repair:
        assert trace[row.layer].signal.second_moment == pytest.approx(row.after, rel=1e-4)


def test_weights_that_share_memory_are_tied():
    first, second = nn.Linear(24, 24), nn.Linear(24, 24)
    second.weight.data = first.weight.data
    repair = repair_(nn.Sequential(first, second), X)
    assert notes(repair) == {"1": "tied to 0"}


class TiedByMemory(nn.Module):
    """An embedding and a head, two parameters in one place."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = nn.Parameter(self.embed.weight.data)

    def forward(self, ids):
        return self.head(self.embed(ids))


def test_a_weight_stays_scaled_whose_memory_another_parameter_shares(recwarn):
    torch.manual_seed(0)
    model = TiedByMemory()
    before = model.embed.weight.detach().clone()
    repair = held(model, IDS)
    assert notes(repair) == {"head": "tied to embed"}
    assert [row.layer for row in repair if row.scale != 1] == ["embed"]
    repair.undo()
    assert torch.equal(model.embed.weight, before)
    assert not recwarn


class Rows(nn.Module):
    """Two layers in one memory: the second has the last rows of the first, or those after it."""

    def __init__(self, start):
        super().__init__()
        memory = torch.randn(48, 24)
        self.first, self.last = nn.Linear(24, 24), nn.Linear(24, 24)
        self.first.weight = nn.Parameter(memory[:24])
        self.last.weight = nn.Parameter(memory[start : start + 24])

    def forward(self, x):
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("start", "said"), [(0, "tied"), (7, "tied"), (23, "tied"), (24, "")])
def test_weights_that_overlap_in_memory_are_tied(start, said, own, recwarn):
    torch.manual_seed(0)
    model = Rows(start)
    before = [p.detach().clone() for p in model.parameters()]
    layers = nn.Sequential(model.first, nn.ReLU(), model.last)
    repair = held(model if own else layers, X)
    assert list(notes(repair).values()) == ([f"tied to {repair.rows[0].layer}"] if said else [])
    repair.undo()
    assert all(map(torch.equal, model.parameters(), before))
    assert not recwarn


class RowsOfAttention(nn.Module):
    """A layer whose weight is the last rows for the keys and the first ones for the values."""

    def __init__(self):
        super().__init__()
        self.attention, self.layer = nn.MultiheadAttention(24, 2), nn.Linear(24, 24)
        self.layer.weight = nn.Parameter(self.attention.in_proj_weight.data[30:54])

    def forward(self, x):
        x = self.layer(x)
        return self.attention(x, x, x)[0]


def test_blocks_of_attentions_weight_are_tied_where_they_overlap_another():
    torch.manual_seed(0)
    repair = held(RowsOfAttention(), X)
    said = {row.weight: row.note for row in repair if row.layer == "attention" and row.note}
    assert said == dict.fromkeys(("in_proj_weight[k]", "in_proj_weight[v]"), "tied to layer")


def shapes():
    """Networks whose repaired weights have, by chance, the variance of some wrong recipe."""
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    convs = [m for _ in range(3) for m in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    yield nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), *convs, *pooled), (32, 3, 12, 12)
    wide = [m for w in ((64, 256), (256, 64)) * 3 for m in (nn.Linear(*w), nn.Sigmoid())]
    yield nn.Sequential(*wide, nn.Linear(64, 10)), (64, 64)
    yield nn.Sequential(*(nn.Linear(48, 48) for _ in range(5))), (64, 48)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("seed", range(3))
def test_a_repaired_network_is_blamed_for_no_recipe(which, seed):
    torch.manual_seed(seed)
    model, shape = list(shapes())[which]
    x = 100 * torch.rand(shape)  # so that the first layer's variance suits no recipe either
    repair_(model, x - 50)
    recipes = {"transposed fan", "gain missing", "depthwise fan", "default init", "packed q/k/v"}
    blamed = [f for f in audit(model, x - 50).findings if set(f.cause.split(" or ")) & recipes]
    assert not blamed
