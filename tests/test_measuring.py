"""Measuring: the right rows, the right numbers, and nothing left behind."""

import json
import math
import random
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from handwave import Moments, measure, mlp


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
        self.fails = False

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
        if self.fails:
            raise ZeroDivisionError("the model's own")
        return OrderedDict(ids=ids, out=h)


def everything_about(model):
    """Take down all that must come back, as bytes where it is numbers."""
    return {
        "values": {k: v.detach().numpy().tobytes() for k, v in model.state_dict().items()},
        "objects": [id(t) for t in (*model.parameters(), *model.buffers())],
        "gradients": [p.grad if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "grad mode": torch.is_grad_enabled(),
    }


IDS = torch.arange(28).reshape(7, 4) % 10


def test_a_row_a_call_in_call_order():
    trace = measure(Everything(), IDS)
    called = ["embedding", "lstm", "spectral", "inplace", "spectral#2", "inplace#2", "norm"]
    assert names(trace) == [*called, "dropout", "unused"]
    assert [layer.kind for layer in trace][:3] == ["Embedding", "LSTM", "Linear"]
    assert trace["unused"].note == "never called"
    assert trace["lstm"].shape == (7, 4, 6)


@pytest.mark.parametrize("fails", [False, True], ids=["runs", "raises"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("grads", [False, True], ids=["no grads", "grads"])
def test_nothing_is_left_behind(fails, backward, grads):
    model = Everything()
    model.dropout.eval()
    model.unused.bias.requires_grad_(False)
    if grads:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
    model.fails = fails
    before = everything_about(model)
    if fails:
        with pytest.raises(ZeroDivisionError, match="the model's own"):
            measure(model, IDS, backward=backward)
    else:
        measure(model, IDS, backward=backward)
    assert everything_about(model) == before


def test_a_loss_that_raises_leaves_nothing_behind():
    model = Everything()
    before = everything_about(model)
    with pytest.raises(KeyError):
        measure(model, IDS, backward=True, loss=lambda out: out["missing"])
    assert everything_about(model) == before


def test_inputs_are_not_written_in():
    x = -torch.ones(2, 3)
    measure(nn.Sequential(nn.ReLU(inplace=True)), x)
    assert torch.equal(x, -torch.ones(2, 3))


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
    assert row.weight == Moments.of(layer.weight)
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


@pytest.mark.parametrize("shift", [0.0, 20.0, 3000.0], ids=["plain", "shifted", "cancelling"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_detail_the_sums_are_still_good(shift, dtype):
    x = (torch.randn(300, 200, generator=seeded()) + shift).to(dtype)
    (row,) = measure(nn.Identity(), x, detail=False)
    assert row.signal.var == pytest.approx(Moments.of(x).var, rel=1e-4)
    assert row.signal.count == 60_000
    assert (row.spread, row.zeros, row.weight) == (None, None, None)


def test_without_detail_overflowing_squares_are_summed_again():
    x = 1e30 * torch.randn(30, 20, generator=seeded())
    (row,) = measure(nn.Identity(), x, detail=False)
    assert row.signal.var == pytest.approx(Moments.of(x).var, rel=1e-4)
    (row,) = measure(nn.Identity(), x / 0, detail=False)
    assert row.signal.nonfinite == 600


def gradients_by_torch(net, x, loss):
    """Differentiate with retain_grad, the long way."""
    outputs = []
    for module in net:
        x = module(x)
        x.retain_grad()
        outputs.append(x)
    loss(x).backward()
    return [Moments.of(out.grad) for out in outputs]


@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_are_those_with_respect_to_each_output(inplace):
    def net(inplace):
        return mlp(20, 3, lambda: nn.ReLU(inplace=inplace), generator=seeded())

    x = torch.randn(8, 20, generator=seeded(1))

    def loss(y):
        return y.square().mean()

    trace = measure(net(inplace), x, backward=True, loss=loss)
    for layer, expected in zip(trace, gradients_by_torch(net(False), x, loss), strict=True):
        assert layer.grad is not None
        assert layer.grad.second_moment == pytest.approx(expected.second_moment, rel=1e-4)


def test_without_a_loss_a_standard_normal_gradient_enters():
    torch.manual_seed(0)
    trace = measure(mlp(500, 5, generator=seeded()), torch.randn(100, 500), backward=True)
    # 50,000 normals: relative sd √(2/50,000) = 0.63 %; 5 of them.
    assert trace["4"].grad is not None
    assert trace["4"].grad.second_moment == pytest.approx(1, rel=0.032)
    # Four layers with second moment 1/fan_out keep it: log wanders by √(2·4/500) = 0.13.
    assert trace["0"].grad is not None
    assert abs(math.log(trace["0"].grad.second_moment)) < 5 * 0.13


@pytest.mark.parametrize("inplace", [False, True])
def test_frozen_layers_have_gradients_too(inplace):
    net = mlp(20, 2, lambda: nn.ReLU(inplace=inplace), generator=seeded()).requires_grad_(False)
    trace = measure(net, torch.randn(8, 20), backward=True)
    assert all(layer.grad and layer.grad.second_moment > 0 for layer in trace)


def test_inputs_are_positional_or_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, a, b=None, flip=False):
            return self.fc(a) + (0 if b is None else b)

    a, b = torch.randn(2, 3), torch.randn(2, 3)
    by_tensor, by_place = measure(Two(), a), measure(Two(), (a, b))
    by_name = measure(Two(), {"a": a, "b": b, "flip": True})
    assert names(by_tensor) == names(by_place) == names(by_name) == ["fc"]


def test_attention_and_encoders_have_a_row_a_layer_in_either_mode():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 16)
    inner = ["self_attn", "dropout1", "norm1", "linear1", "dropout", "linear2", "dropout2", "norm2"]
    expected = [f"layers.{k}.{name}" for k in range(2) for name in inner]
    assert names(measure(model, x)) == expected
    # In eval mode torch has a fast path that calls no layer.
    assert names(measure(model.eval(), x)) == expected


def test_one_module_at_two_places_is_one_layer_called_twice():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(OrderedDict(first=shared, act=nn.Tanh(), second=shared))
    trace = measure(model, torch.randn(2, 4))
    assert names(trace) == ["first", "act", "first#2"]
    assert trace["first"].weight == trace["first#2"].weight


def test_parametrized_layers_are_one_row_with_the_weight_that_they_use():
    layer: Any = parametrizations.weight_norm(nn.Linear(4, 5))
    (row,) = measure(nn.Sequential(layer), torch.randn(2, 4))
    assert (row.name, row.kind) == ("0", "Linear")
    assert row.weight == Moments.of(layer.weight)


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


def test_wrappers_leave_no_trace_in_names():
    net = mlp(4, 2, nn.ReLU)
    x = torch.randn(2, 4)
    assert names(measure(nn.DataParallel(net), x)) == names(measure(net, x))

    # A backend that is never called: layers inside compiled code have no outputs to look at.
    def backend(graph, inputs):
        raise AssertionError("the model was compiled")

    compiled: nn.Module = torch.compile(net, backend=backend)  # pyright: ignore[reportAssignmentType]
    assert names(measure(compiled, x)) == names(measure(net, x))
    assert names(measure(nn.Sequential(compiled, nn.Tanh()), x)) == [
        "0.0",
        "0.1",
        "0.2",
        "0.3",
        "1",
    ]


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
