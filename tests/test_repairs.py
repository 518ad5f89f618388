"""What a repair leaves: weights and nothing else; what undoing brings back; how it prints."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from handwave import mlp
from handwave.repairing import repair_
from handwave.repairs import Repair, Row

X = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))


class Everything(nn.Module):
    """All that a repair writes, and all that it must not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(24, 24)
        self.normed = parametrizations.weight_norm(nn.Linear(24, 24))
        self.attention = nn.MultiheadAttention(24, 4, dropout=0.1)
        self.norm = nn.BatchNorm1d(24)
        self.narrow = nn.Linear(24, 24).bfloat16()
        self.frozen = nn.Linear(24, 24).requires_grad_(False)
        self.spectral = parametrizations.spectral_norm(nn.Linear(24, 24))
        self.fails = False

    def forward(self, x):
        random.random()
        np.random.rand()
        self.norm.momentum = random.random()
        x = torch.relu(self.normed(self.first(x)))
        x = self.norm(self.attention(x, x, x, need_weights=False)[0])
        x = self.narrow(nn.functional.dropout(x).bfloat16()).float()
        if self.fails:
            raise ZeroDivisionError("the model's own")
        return self.spectral(self.frozen(x))


def model_with_gradients():
    torch.manual_seed(0)
    model = Everything()
    model(X).sum().backward()
    return model


def everything_about(model):
    """Take down all that must not change, as bytes where it is numbers."""
    values = {
        k: v.detach().reshape(-1).clone().view(torch.uint8) for k, v in model.state_dict().items()
    }
    grads = [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
    return {
        "values": {key: value.tolist() for key, value in values.items()},
        "objects": [(id(p), p.data_ptr(), p.requires_grad) for p in model.parameters()],
        "gradients": [None if g is None else g.tolist() for g in grads],
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "momentum": model.norm.momentum,
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
    }


WRITTEN = {
    "first.weight",
    "normed.parametrizations.weight.original0",
    "normed.parametrizations.weight.original1",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "narrow.weight",
    "frozen.weight",
}


def test_a_repair_changes_weights_and_nothing_else():
    model = model_with_gradients()
    before = everything_about(model)
    repair_(model, X)
    after = everything_about(model)
    changed = {k for k, v in after["values"].items() if v != before["values"][k]}
    # The direction of a weight norm is written anew, in proportion.
    assert changed == WRITTEN
    assert {**after, "values": 0} == {**before, "values": 0}


def test_undoing_is_exact_to_the_bit():
    model = model_with_gradients()
    before = everything_about(model)
    repair = repair_(model, X)
    assert repair.applied
    repair.undo()
    assert not repair.applied
    assert everything_about(model) == before


def test_undoing_twice_is_an_error():
    repair = repair_(nn.Linear(24, 24), X)
    repair.undo()
    message = r"nothing to undo: it was a dry run \(apply=False\), or is undone"
    with pytest.raises(ValueError, match=message):
        repair.undo()
    with pytest.raises(ValueError, match=message):
        repair_(nn.Linear(24, 24), X, apply=False).undo()


def test_undoing_after_training_says_what_is_lost():
    model = mlp(24, 2, nn.ReLU)
    before = [p.clone() for p in model.parameters()]
    repair = repair_(model, X, target=2.0)
    with torch.no_grad():
        list(model.parameters())[1].add_(0.1)
    with pytest.warns(UserWarning, match=r"changed since the repair, and now as before it: 2\.wei"):
        repair.undo()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_undoing_finds_a_weight_that_moved():
    model = nn.Linear(24, 24)
    before = model.weight.detach().clone()
    repair = repair_(model, X)
    model.double()
    with pytest.warns(UserWarning, match="changed since the repair"):
        repair.undo()
    assert torch.equal(model.weight, before.double())


def test_a_dry_run_reports_the_same_and_changes_nothing():
    model = model_with_gradients()
    before = everything_about(model)
    dry = repair_(model, X, apply=False)
    assert everything_about(model) == before
    assert not dry.applied
    assert str(dry).endswith("8 weights to scale; the model is as it was")
    assert list(map(str, repair_(model, X))) == list(map(str, dry))


@pytest.mark.parametrize("apply", [False, True])
def test_an_exception_of_the_model_leaves_nothing_half_repaired(apply):
    model = model_with_gradients()
    model.fails = True
    before = everything_about(model)
    with pytest.raises(ZeroDivisionError, match="the model's own"):
        repair_(model, X, apply=apply)
    assert everything_about(model) == before


def test_repairing_twice_changes_nothing_more():
    model = mlp(24, 20, nn.ReLU, std=1.0, bias=True)
    repair_(model, X)
    before = [p.clone() for p in model.parameters()]
    again = repair_(model, X)
    assert {row.note for row in again} == {"at target"}
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_autograd_knows_that_a_weight_was_written():
    layer = nn.Linear(24, 24)
    loss = (layer(X.clone().requires_grad_()) ** 2).sum()
    repair_(layer, X, apply=False)
    loss.backward(retain_graph=True)
    repair_(layer, X)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def rows():
    bad = float("inf")
    return (
        Row("fc", "weight", "Linear", 100.0, 1.0, 0.1),
        Row("fc<1>", "weight", "Linear", bad, bad, note="its weight is not finite"),
        Row("out", "weight", "Linear", note="never called"),
    )


def test_it_prints_as_a_table():
    assert str(Repair(rows(), 1.0, True, [])) == (
        "layer  weight  kind    before  after  scale  note\n"
        "fc     weight  Linear     100      1    0.1\n"
        "fc<1>  weight  Linear     inf    inf      1  its weight is not finite\n"
        "out    weight  Linear                     1  never called\n"
        "0 weights scaled"
    )


def test_it_shows_as_a_table_in_a_notebook():
    shown = Repair(rows(), 1.0, True, [])._repr_html_()
    assert shown.startswith("<table><thead><tr><th>layer</th><th>weight</th>")
    assert "<td>fc&lt;1&gt;</td>" in shown
    assert shown.endswith("</table><p>0 weights scaled</p>")


def test_its_dict_is_strict_json():
    plain = json.loads(json.dumps(Repair(rows(), 1.0, True, []).to_dict(), allow_nan=False))
    assert plain["target"] == 1.0
    assert plain["applied"] is True
    assert plain["rows"][1]["before"] == "inf"
    assert plain["rows"][2] == {
        "layer": "out",
        "weight": "weight",
        "kind": "Linear",
        "before": "nan",
        "after": "nan",
        "scale": 1.0,
        "note": "never called",
    }


def test_it_has_a_length_and_can_be_iterated():
    repair = Repair(rows(), 1.0, True, [])
    assert len(repair) == 3
    assert [row.layer for row in repair] == ["fc", "fc<1>", "out"]


@pytest.mark.parametrize("target", [0, -1.0, float("inf"), float("nan")])
def test_a_target_that_is_no_second_moment_is_refused(target):
    message = f"target is a second moment, positive and finite, got {target}"
    with pytest.raises(ValueError, match=message):
        repair_(nn.Linear(24, 24), X, target)


@pytest.mark.parametrize(("target", "name"), [("1", "str"), (None, "NoneType"), (True, "bool")])
def test_a_target_that_is_no_number_is_refused(target, name):
    with pytest.raises(TypeError, match=f"target must be a number, got {name}"):
        repair_(nn.Linear(24, 24), X, target)


def test_what_is_no_model_and_no_input_is_refused():
    with pytest.raises(TypeError, match="expected a module, got builtin"):
        repair_(torch.relu, X)  # pyright: ignore
    with pytest.raises(TypeError, match="inputs must be a tensor, a tuple of positional"):
        repair_(nn.Linear(24, 24), [X])  # pyright: ignore
    with pytest.raises(ValueError, match="a lazy layer has no weights yet"):
        repair_(nn.LazyLinear(24), X)
