"""Repairing: every layer at the target when measured again, whatever the layer is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetForImageClassification
from transformers.pytorch_utils import Conv1D

from handwave import Moments, measure, mlp
from handwave.repairing import repair_
from handwave.stacks import Residual

X = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(4, 6, 9, 9, generator=torch.Generator().manual_seed(2))
IDS = torch.arange(24).reshape(4, 6) % 11


def held(model, inputs, target=1.0, tolerance=1e-4):
    """Repair, measure again on the same input, and hold every repaired row to the target."""
    repair = repair_(model, inputs, target)
    trace = measure(model, inputs)
    for row in repair:
        if row.scale != 1 and row.weight in {"weight", "out_proj.weight"}:
            found = trace[row.layer].signal.second_moment
            assert found == pytest.approx(target, rel=tolerance), row
            assert row.after == pytest.approx(found, rel=tolerance), row
    return repair


def notes(repair):
    return {row.layer: row.note for row in repair if row.note}


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


class Shared(nn.Module):
    """One layer called twice, and one weight in two layers and a function."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(24, 24)
        self.other = nn.Linear(24, 24)
        self.other.weight = self.first.weight
        self.last = nn.Linear(24, 24)

    def forward(self, x):
        x = torch.relu(self.first(torch.relu(self.first(x))))
        x = nn.functional.linear(self.other(x), self.first.weight)
        return self.last(x)


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


def test_looking_at_a_spectral_norm_takes_no_step_of_it():
    torch.manual_seed(0)
    shared = parametrizations.spectral_norm(nn.Linear(24, 24))
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(24, 24))
    repair = held(model, X)
    trace = measure(model, X)
    for row in repair:
        assert trace[row.layer].signal.second_moment == pytest.approx(row.after, rel=1e-6)


class Clipped(nn.Linear):
    """A layer that takes the size out of its weight."""

    def forward(self, input):
        return nn.functional.linear(input, self.weight / self.weight.norm(), self.bias)


class Padded(nn.Conv2d):
    """A layer with a forward of its own, whose output follows its weight."""

    def forward(self, input):
        return super().forward(nn.functional.pad(input, (1, 1, 1, 1)))


def test_what_cannot_be_scaled_is_left_alone_and_says_why():
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(24, 24)),
        parametrizations.orthogonal(nn.Linear(24, 24)),
        Clipped(24, 24),
        nn.LayerNorm(24),
        nn.Linear(24, 24, bias=False),
        nn.Linear(24, 24),
    )
    nn.init.zeros_(model[4].weight)
    nn.init.zeros_(model[5].bias)
    with torch.no_grad():
        model(X)  # the spectral norm's vectors settle
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert notes(repair_(model, X)) == {
        "0": "its parametrization takes no scale",
        "1": "its parametrization takes no scale",
        "2": "its output does not follow its weight",
        "3": "no single weight",
        "4": "its weight is zero",
        "5": "zero for its input",
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = notes(repair_(nn.LSTM(24, 5), X))
    assert found == {"LSTM": "no single weight"}
    found = notes(repair_(nn.Embedding(11, 8, max_norm=1.0), IDS))
    assert found == {"Embedding": "max_norm holds its rows"}


def test_a_forward_of_its_own_is_repaired_if_the_output_follows():
    torch.manual_seed(0)
    repair = held(nn.Sequential(Padded(6, 7, 3), nn.ReLU(), Padded(7, 7, 3)), IMAGES)
    assert all(row.scale != 1 for row in repair)


def test_a_hook_that_changes_an_output_is_noticed():
    layer = nn.Linear(24, 24)
    layer.register_forward_hook(lambda *given: 2 * given[-1])
    assert notes(repair_(layer, X)) == {"Linear": "its output does not follow its weight"}


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_is_left_alone(bad):
    model: Any = mlp(24, 2, nn.ReLU)
    with torch.no_grad():
        model[2].weight[0, 0] = bad
    assert notes(repair_(model, X)) == {"2": "its weight is not finite"}
    x = X.clone()
    x[0, 0] = bad
    assert notes(repair_(model[:2], x)) == {"0": "not finite for its input"}


def test_a_layer_that_is_never_called_is_named_and_left_alone():
    model = Shared()
    model.extra = nn.Linear(3, 3)
    weight = model.extra.weight.clone()
    repair = repair_(model, X)
    assert repair.rows[-1].layer == "extra"
    assert repair.rows[-1].note == "never called"
    assert math.isnan(repair.rows[-1].before)
    assert torch.equal(weight, model.extra.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_half_precision_is_repaired_though_it_overflows_on_the_way(dtype, bias):
    seed = torch.Generator().manual_seed(0)
    model = mlp(64, 60, nn.ReLU, std=1000.0, bias=bias, generator=seed).to(dtype)
    x = (100 * torch.randn(32, 64, generator=seed)).to(dtype)
    with torch.no_grad():
        assert not model(x).isfinite().all()
    # A weight's rounding, 2**-9 of it in bfloat16, is averaged over 64 * 64 of them.
    held(model, x, tolerance=0.02)
    assert model[0].weight.dtype == dtype
    with torch.no_grad():
        assert model(x).isfinite().all()


def test_attention_in_half_precision_is_repaired_though_it_overflows():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(32, 4).half()
    nn.init.normal_(layer.in_proj_weight, std=1e4)
    nn.init.normal_(layer.out_proj.weight, std=3e4)
    x = torch.randn(5, 4, 32).half()
    held(layer, (10 * x, 10 * x, 10 * x), tolerance=0.02)


def test_a_weight_too_small_for_its_dtype_is_left_alone():
    layer = nn.Linear(24, 24, bias=False).half()
    weight = layer.weight.clone()
    (row,) = repair_(layer, X.half(), target=1e-12)
    assert row.note.startswith("its dtype cannot hold it times")
    assert torch.equal(layer.weight, weight)


def test_float32_is_repaired_though_it_overflows():
    model = mlp(24, 3, nn.ReLU, std=1e30)
    held(model, 1e12 * X)


def test_autocast_sees_the_new_weights():
    torch.manual_seed(0)
    model = Shared()
    with torch.autocast("cpu", torch.bfloat16):
        repair = repair_(model, X)
        trace = measure(model, X)
    assert model.first.weight.dtype == torch.float32
    for row in repair:
        found = trace[row.layer].signal.second_moment
        assert found == pytest.approx(row.after, rel=0.02)


class Force(nn.Module):
    """A model that differentiates in its forward."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
        self.after = nn.Linear(24, 24)

    def forward(self, x):
        with torch.enable_grad():
            x = x.requires_grad_()
            return self.after(torch.autograd.grad(self.net(x).sum(), x)[0])


def test_a_model_that_differentiates_in_its_forward_is_repaired():
    torch.manual_seed(0)
    repair = held(Force(), X)
    assert [row.scale != 1 for row in repair] == [True, True, True]


@pytest.mark.parametrize("made", [False, True])
def test_inference_mode_is_no_obstacle(made):
    torch.manual_seed(0)
    with torch.inference_mode(made):
        model = mlp(24, 3, nn.ReLU, std=1.0, bias=True)
    before = [p.clone() for p in model.parameters()]
    with torch.inference_mode(not made):
        repair = held(model, X)
    repair.undo()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_compiled_model_is_repaired():
    model = mlp(24, 3, nn.ReLU, std=1.0)
    repair = held(torch.compile(model, backend="eager"), X)
    assert [row.layer for row in repair] == ["0", "2", "4"]


def test_a_parametrization_without_a_way_back_is_left_alone():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer = nn.Linear(24, 24)
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert notes(repair_(layer, X)) == {"Linear": "its parametrization takes no scale"}
