"""What repairing leaves alone, and what it says of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import repaired
from handwave import measure, mlp
from handwave.repairing import repair_

held, notes, Shared = repaired.held, repaired.notes, repaired.Shared

X, IMAGES, IDS = repaired.X, repaired.IMAGES, repaired.IDS


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
        "3": "norms are left alone",
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


class Drawing(nn.Module):
    """A parametrization that draws at each look at the weight, and changes nothing."""

    def forward(self, weight):
        torch.rand(1)
        return weight

    def right_inverse(self, weight):
        return weight


class DrawingLinear(nn.Linear):
    """A layer that draws at each call."""

    def forward(self, input):
        torch.rand(1)
        return super().forward(input)


@pytest.mark.parametrize("own_forward", [False, True])
def test_looking_at_what_draws_draws_nothing_for_the_layers_after_it(own_forward):
    torch.manual_seed(0)
    layer = DrawingLinear(24, 24) if own_forward else nn.Linear(24, 24)
    if not own_forward:
        parametrize.register_parametrization(layer, "weight", Drawing())
    repair = held(nn.Sequential(layer, nn.Dropout(0.5), nn.Linear(24, 24)), X)
    assert all(row.scale != 1 for row in repair)


def test_a_parametrization_without_a_way_back_is_left_alone():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer = nn.Linear(24, 24)
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert notes(repair_(layer, X)) == {"Linear": "its parametrization takes no scale"}


class Writing(nn.Module):
    """A model that writes one of its weights as it runs."""

    def __init__(self, write):
        super().__init__()
        self.layer, self.last = nn.Linear(24, 24), nn.Linear(24, 24)
        self.write = write

    def forward(self, x):
        self.write(self.layer)
        return self.last(self.layer(x))


def normalized(layer):
    layer.weight.data = nn.functional.normalize(layer.weight.data)


def halved(layer):
    layer.weight.data.mul_(0.5)


def clipped(layer):  # as it is already: the values stay
    layer.weight.clamp_(-1, 1)


def replaced(layer):
    layer.weight = nn.Parameter(0.5 * layer.weight)


@pytest.mark.parametrize("write", [normalized, halved, clipped, replaced])
def test_a_weight_that_the_model_writes_itself_is_left_as_it_was(write):
    torch.manual_seed(0)
    model = Writing(write)
    before = [p.detach().clone() for p in model.parameters()]
    repair = held(model, X)
    assert notes(repair) == {"layer": "the model writes its weight as it runs"}
    seen = measure(model, X)["layer"].signal.second_moment
    assert repair.rows[0].after == pytest.approx(seen, rel=1e-4)
    repair.undo()
    assert all(map(torch.equal, model.parameters(), before))


class Same(nn.Module):
    """A parametrization that changes nothing."""

    def forward(self, weight):
        return weight


@pytest.mark.parametrize("parametrized", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (24, 1), (1, 1)])
def test_a_weight_whose_entries_share_memory_is_left_alone(shape, parametrized):
    torch.manual_seed(0)
    layer = nn.Linear(24, 24)
    layer.weight = nn.Parameter(torch.randn(shape).expand(24, 24))
    if parametrized:
        parametrize.register_parametrization(layer, "weight", Same(), unsafe=True)
    before = layer.weight.detach().clone()
    repair = held(nn.Sequential(layer, nn.Linear(24, 24)), X)
    assert notes(repair) == {"0": "its entries share memory"}
    assert torch.equal(layer.weight, before)


def test_attentions_weights_may_share_memory_with_themselves():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(24, 2)
    for owner, name in ((model, "in_proj_weight"), (model.out_proj, "weight")):
        old = getattr(owner, name)
        setattr(owner, name, nn.Parameter(torch.randn(1, 24).expand(old.shape)))
    repair = repair_(model, (X, X, X))
    assert [row.note for row in repair] == ["its entries share memory"] * 4


@pytest.mark.parametrize("apply", ["False", 0, None])
def test_apply_is_true_or_false_and_nothing_else(apply):
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    with pytest.raises(TypeError, match="apply must be True or False, got"):
        repair_(layer, torch.randn(8, 4), apply=apply)
    assert torch.equal(layer.weight, before)


def test_an_empty_output_is_left_alone_by_name():
    (row,) = repair_(nn.Linear(4, 4), torch.randn(0, 4))
    assert row.note == "empty output"


def test_any_real_number_is_a_target():
    target: Any = np.float32(2)
    (row,) = repair_(nn.Linear(4, 4), torch.randn(8, 4), target=target)
    assert row.after == pytest.approx(2, rel=1e-4)
