"""Measuring: the right rows, the right numbers, and nothing left behind."""

import json
import math
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import BaseModelOutput

from handwave import Moments, fans, measure, mlp, repair_


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def names(trace):
    return [layer.name for layer in trace]


class Everything(nn.Module):
    """A model with all that a run may change, and a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8, max_norm=0.1)
        self.lstm = nn.LSTM(8, 6)
        self.spectral = parametrizations.spectral_norm(nn.Linear(6, 6))
        self.inplace = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        self.unused.weight.data.mul_(1.01)
        self.lstm.requires_grad_(False)
        self.norm.eval()
        random.random()
        np.random.rand()
        h = self.lstm(self.embedding(ids))[0][-1]
        for _ in range(2):
            h = self.inplace(self.spectral(h))
        h = self.dropout(self.norm(h))
        return OrderedDict(ids=ids, out=h)


IDS = torch.arange(28).reshape(7, 4) % 10


def test_a_row_a_call_in_call_order():
    trace = measure(Everything(), IDS)
    called = ["embedding", "lstm", "spectral", "inplace", "spectral#2", "inplace#2", "norm"]
    assert names(trace) == [*called, "dropout", "unused"]
    assert [layer.kind for layer in trace][:3] == ["Embedding", "LSTM", "Linear"]
    assert trace["unused"].note == "never called"
    assert trace["lstm"].shape == (7, 4, 6)


def test_the_signal_is_the_output_pooled_over_every_entry():
    net = mlp(20, 3, nn.ReLU, generator=seeded())
    x = torch.randn(64, 20, generator=seeded(1))
    trace = measure(net, x)
    with torch.no_grad():
        for layer, module in zip(trace, net, strict=True):
            x = module(x)
            assert layer.signal.mean == pytest.approx(Moments.of(x).mean, rel=1e-6)
            assert layer.signal.var == pytest.approx(Moments.of(x).var, rel=1e-6)
            assert layer.signal.count == x.numel()
            assert layer.shape == (64, 20)
            assert layer.dtype == torch.float32
            wide = x.double()
            assert layer.zeros == pytest.approx(float((wide == 0).double().mean()))
            spread = float(wide.var(0, correction=0).mean())
            assert layer.spread == pytest.approx(spread, rel=1e-6)


def test_a_linear_row_knows_its_weight_and_its_fans():
    layer = nn.Linear(30, 20)
    (row,) = measure(layer, torch.randn(2, 30))
    assert (row.name, row.fan_in, row.fan_out) == ("Linear", 30.0, 20.0)
    assert row.weight
    assert row.weight.var == pytest.approx(Moments.of(layer.weight).var, rel=1e-6)
    relu = measure(nn.ReLU(), torch.randn(2, 30)).layers[0]
    assert (relu.fan_in, relu.weight, relu.grad, relu.band) == (None, None, None, None)


def test_he_keeps_the_signal_and_unit_weights_explode():
    x = torch.randn(512, 784, generator=seeded(1))
    kept = measure(mlp(784, 20, nn.ReLU, generator=seeded()), x, detail=False)
    # Log of the second moment wanders by √(5·20/784) = 0.36 for one input, less for a batch.
    assert abs(math.log(kept["39"].signal.second_moment)) < 5 * 0.36
    exploded = measure(mlp(784, 30, std=1.0, generator=seeded()), x)
    growth = exploded["9"].signal.second_moment ** (1 / 10)
    assert growth == pytest.approx(784, rel=0.1)
    assert exploded["29"].signal.nonfinite > 0
    assert not math.isfinite(exploded["29"].signal.var)
    json.dumps(exploded.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("model", "inputs", "batch_axis"),
    [
        (nn.LSTM(3, 5), torch.randn(7, 4, 3), 1),
        (nn.LSTM(3, 5, batch_first=True), torch.randn(4, 7, 3), 0),
        (nn.Linear(3, 5), torch.randn(4, 7, 3), 0),
    ],
    ids=["time first", "batch first", "linear"],
)
def test_spread_is_the_variance_across_the_inputs_of_the_batch(model, inputs, batch_axis):
    with torch.no_grad():
        out = model(inputs)
    out = (out[0] if isinstance(out, tuple) else out).double()
    (row,) = measure(model, inputs)
    assert row.spread == pytest.approx(float(out.var(batch_axis, correction=0).mean()))


def test_a_bias_has_scale_but_no_spread():
    layer = nn.Linear(10, 10)
    nn.init.zeros_(layer.weight)
    (row,) = measure(layer, torch.randn(8, 10))
    assert row.signal.second_moment > 0
    assert row.spread == 0
    assert measure(layer, torch.randn(1, 10)).layers[0].spread is None


def test_attention_and_encoders_have_a_row_a_layer_in_either_mode():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 16)
    inner = ["self_attn", "dropout1", "norm1", "linear1", "dropout", "linear2", "dropout2", "norm2"]
    expected = [f"layers.{k}.{name}" for k in range(2) for name in inner]
    assert names(measure(model, x)) == expected
    # In eval mode torch has a fast path that calls no layer.
    assert names(measure(model.eval(), x)) == expected


def test_looking_at_a_spectral_norm_does_not_take_a_step_in_between():
    def model():
        torch.manual_seed(0)
        return nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)))

    looked_at, plain = nn.Sequential(model(), model()), model()
    looked_at[1] = looked_at[0]
    x = torch.randn(2, 6)
    second = measure(looked_at, x).layers[1]
    with torch.no_grad():
        assert second.signal.var == pytest.approx(Moments.of(plain(plain(x))).var, rel=1e-6)


def test_outputs_without_numbers_are_rows_with_a_note():
    class Argmax(nn.Module):
        def forward(self, x):
            return x.argmax(-1)

    class Nothing(nn.Module):
        def forward(self, x):
            return x[:0]

    trace = measure(nn.Sequential(nn.Linear(3, 3), Argmax()), torch.randn(2, 3))
    assert trace["1"].note == "no floating output"
    assert measure(Nothing(), torch.randn(2, 3)).layers[0].note == "empty output"


def test_a_hook_of_the_users_stays_and_is_seen():
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda module, args, out: out * 0 + 7)
    (row,) = measure(layer, torch.randn(2, 3))
    assert row.signal.mean == 7
    assert len(layer._forward_hooks) == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ((torch.relu, torch.ones(2)), TypeError, "expected a module, got builtin_function"),
        ((nn.ReLU(), [torch.ones(2)]), TypeError, "a tuple of positional .* got list"),
        ((nn.LazyLinear(3), torch.ones(2, 2)), ValueError, "a lazy layer has no weights yet"),
        ((nn.ReLU(), torch.ones(2), True, "mse"), TypeError, "loss must be a function.*'mse'"),
        ((nn.ReLU(), torch.ones(2), True, lambda y: y), TypeError, r"one number, got \(2,\)"),
        ((nn.ReLU(), torch.ones(2), True, lambda y: 3.0), TypeError, "one number, got float"),
        ((nn.ReLU(), torch.ones(2), True, lambda y: 1j * y.sum()), TypeError, "real floating"),
        ((nn.ReLU(), torch.ones(2), False, torch.sum), ValueError, "pass backward=True too"),
        ((nn.ReLU(), torch.ones(2), "yes"), TypeError, "backward must be True or False, got 'yes'"),
        ((nn.ReLU, torch.ones(2)), TypeError, "got the class ReLU; pass the nn.Module itself"),
        (
            (nn.ReLU(), torch.ones(2), True, lambda y: y.detach().sum()),
            ValueError,
            "nothing to differentiate",
        ),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        measure(*call)


def test_an_output_without_a_floating_tensor_needs_a_loss():
    class Says(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return str(self.fc(x).shape)

    with pytest.raises(ValueError, match="the model returned str without a floating tensor"):
        measure(Says(), torch.ones(2, 2), backward=True)


@pytest.mark.parametrize("recurrent", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_recurrent_layer_is_one_row_of_its_outputs(recurrent):
    torch.manual_seed(0)
    net, x = recurrent(6, 5, num_layers=2), torch.randn(4, 3, 6)
    trace = measure(net, x)
    assert names(trace) == [recurrent.__name__]
    with torch.no_grad():
        assert trace.layers[0].signal.var == pytest.approx(Moments.of(net(x)[0]).var, rel=1e-6)


def test_a_packed_sequence_is_measured_without_its_padding():
    x = nn.utils.rnn.pack_sequence([torch.randn(4, 6), torch.randn(2, 6)])
    (row,) = measure(nn.GRU(6, 5), (x,))
    assert row.shape == (6, 5)


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 4}], ids=["packed", "parted"])
def test_attention_is_one_row_whether_its_projection_is_packed_or_not(options):
    torch.manual_seed(0)
    net = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    given = (torch.randn(2, 5, 8), torch.randn(2, 7, options.get("kdim", 8)))
    given += (torch.randn(2, 7, options.get("vdim", 8)),)
    for mode in (True, False):
        (row,) = measure(net.train(mode), given, backward=True)
        with torch.no_grad():
            expected = Moments.of(net(*given)[0])
        assert row.signal.var == pytest.approx(expected.var, rel=1e-6)
        assert (row.shape, row.fan_in, row.weight) == ((2, 5, 8), None, None)
        assert row.grad


@dataclass
class Answer:
    ids: torch.Tensor
    hidden: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: Answer(torch.zeros(2, dtype=torch.int64), x),
        lambda x: {"ids": torch.zeros(2, dtype=torch.int64), "hidden": x},
        lambda x: (torch.zeros(2, dtype=torch.int64), [x]),
        lambda x: BaseModelOutput(last_hidden_state=x),
    ],
    ids=["dataclass", "dict", "tuple of lists", "transformers"],
)
def test_the_first_floating_tensor_is_the_output_whatever_holds_it(wrap):
    class Wrapped(nn.Module):
        def forward(self, x):
            return wrap(x)

    x = torch.randn(3, 4)
    (row,) = measure(Wrapped(), x)
    assert row.signal.var == pytest.approx(Moments.of(x).var, rel=1e-6)
    layer = nn.Sequential(nn.Linear(4, 4), Wrapped())
    assert all(row.grad for row in measure(layer, x, backward=True))


def test_tied_weights_are_two_rows_of_the_same_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.embedding(ids))

    trace = measure(Tied(), IDS, backward=True)
    assert names(trace) == ["embedding", "head"]
    assert trace["embedding"].weight == trace["head"].weight
    assert (trace["embedding"].fan_in, trace["head"].fan_in) == (1.0, 6.0)
    assert all(row.grad for row in trace)


def test_a_gpt2_has_a_row_for_each_of_its_layers():
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=30, n_positions=12)
    trace = measure(GPT2LMHeadModel(config), {"input_ids": IDS}, backward=True)
    inner = ["ln_1", "attn.c_attn", "attn.c_proj", "attn.resid_dropout", "ln_2"]
    inner += ["mlp.c_fc", "mlp.act", "mlp.c_proj", "mlp.dropout"]
    blocks = [f"transformer.h.{k}.{name}" for k in range(2) for name in inner]
    ends = ["transformer.wte", "transformer.wpe", "transformer.drop"]
    called = [row.name for row in trace if row.note != "never called"]
    assert called == [*ends, *blocks, "transformer.ln_f", "lm_head"]
    assert all(row.grad for row in trace if row.name in called)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_a_wider_one(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).to(dtype)
    x = 3000 * torch.randn(32, 64).to(dtype)  # squares leave float16
    trace = measure(net, x, backward=True)
    with torch.no_grad():
        assert trace["1"].signal.var == pytest.approx(Moments.of(net(x)).var, rel=1e-6)
    assert trace["1"].dtype == dtype
    assert all(row.grad and math.isfinite(row.grad.var) for row in trace)


def test_autocast_is_seen_as_it_runs_and_does_not_reach_the_sums():
    torch.manual_seed(0)
    net, x = nn.Linear(64, 64), torch.randn(32, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (row,) = measure(net, x, backward=True)
        with torch.no_grad():
            expected = Moments.of(net(x))
    assert row.dtype == torch.bfloat16
    assert row.signal.var == pytest.approx(expected.var, rel=1e-6)
    assert row.weight
    assert row.weight.var == pytest.approx(Moments.of(net.weight).var, rel=1e-6)


def test_channels_last_is_the_same_signal():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True)), torch.randn(2, 3, 9, 9)
    plain = measure(net, x)
    last = measure(net, x.to(memory_format=torch.channels_last))
    for row, other in zip(plain, last, strict=True):
        assert other.signal.var == pytest.approx(row.signal.var, rel=1e-5)
        assert other.spread == pytest.approx(row.spread, rel=1e-5)
        assert other.zeros == row.zeros


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, groups=2),
        nn.ConvTranspose2d(4, 8, 3, stride=2),
        nn.Embedding(9, 5),
        nn.Bilinear(4, 3, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_layer_with_one_weight_knows_its_fans(layer):
    given = {
        "Embedding": (IDS % 9,),
        "Bilinear": (torch.randn(2, 4), torch.randn(2, 3)),
    }.get(type(layer).__name__, (torch.randn(2, 4, 9, 9),))
    (row,) = measure(layer, given)
    assert (row.fan_in, row.fan_out) == tuple(fans(layer))


def test_every_module_that_was_never_called_is_named():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act, self.norm = nn.Linear(3, 3), nn.ReLU(), nn.LayerNorm(3)
            self.scales = nn.ParameterList([nn.Parameter(torch.ones(3))])  # cannot be called

        def forward(self, x):
            return self.norm(self.fc(x)) * self.scales[0]

    trace = measure(Forgetful(), torch.randn(2, 3))
    assert [(row.name, row.note) for row in trace] == [
        ("fc", ""),
        ("norm", ""),
        ("act", "never called"),
    ]
    assert trace["act"].signal.count == 0


def test_both_kinds_of_weight_norm_are_one_row():
    with pytest.warns(FutureWarning, match="weight_norm"):
        old = nn.utils.weight_norm(nn.Linear(4, 5))
    new: Any = parametrizations.weight_norm(nn.Linear(4, 5))
    for layer in (old, new):
        (row,) = measure(nn.Sequential(layer), torch.randn(2, 4), backward=True)
        assert (row.name, row.kind, row.fan_in) == ("0", "Linear", 4.0)
        assert row.weight
        assert row.weight.var == pytest.approx(Moments.of(layer.weight).var, rel=1e-6)
        assert row.grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_without_detail_a_variance_is_good_to_four_digits_in_every_dtype(dtype):
    x = (torch.randn(512, 784, generator=torch.Generator().manual_seed(0)) + 30).to(dtype)
    row = measure(nn.Identity(), x, detail=False)["Identity"]
    assert row.signal.var == pytest.approx(Moments.of(x).var, rel=1e-4)


def test_an_encoder_in_eval_mode_is_measured_behind_a_padding_mask():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    mask = torch.arange(9).expand(4, 9) > 5
    inputs = {"src": torch.randn(4, 9, 32), "src_key_padding_mask": mask}
    trace = measure(encoder, inputs)
    assert [row.name for row in trace] == [row.name for row in measure(encoder, inputs, True)]
    assert all(row.shape == (4, 9, row.shape[-1]) for row in trace)
    repaired = repair_(encoder, inputs)
    again = measure(encoder, inputs)
    for row in repaired:
        if row.weight == "weight" and row.scale != 1:
            assert again[row.layer].signal.second_moment == pytest.approx(1, abs=1e-4)
    assert torch.backends.mha.get_fastpath_enabled()
