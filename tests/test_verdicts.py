"""Verdicts: numbers that are lost are told where that begins, and nothing is told twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import networks as nets
from handwave import audit


def linear(inputs, outputs, scale=2.0):
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, 0, math.sqrt(scale / inputs))
    nn.init.zeros_(layer.bias)
    return layer


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def batch():
    return torch.randn(64, 64)


def between(function, behind=None) -> Any:
    """Two layers, a function between them, and perhaps one behind."""

    def forward(self, x):
        y = self.b(function(self.a(x)))
        return behind(y) if behind else y

    return nets.Written(forward, a=linear(64, 64), b=linear(64, 10))


def told(report):
    return [(each.layer, each.verdict) for each in report.failures]


def masked_softmax(z):
    mask = torch.zeros_like(z, dtype=torch.bool)
    mask[0] = True
    return z.masked_fill(mask, -math.inf).softmax(-1)


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(torch.sqrt, id="sqrt"),
        pytest.param(torch.log, id="log"),
        pytest.param(lambda z: (1000 * z).exp(), id="exp"),
        pytest.param(lambda z: z.relu() / z.relu(), id="0/0"),
        pytest.param(masked_softmax, id="all masked"),
    ],
)
def test_numbers_lost_between_two_layers_are_told_at_the_second(function, backward):
    report = audit(between(function), batch(), backward=backward)
    assert told(report) == [("b", "not finite")]
    (found,) = report.failures
    assert "all that a put out are finite: it arises between them" in found.sentence


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_numbers_lost_in_the_input_are_told_so(lost):
    x = batch()
    x[3, 5] = lost
    report = audit(between(torch.relu), x)
    assert told(report) == [("a", "not finite")]
    assert report.failures[0].sentence.startswith("1 of 4096 numbers that enter it are NaN")
    assert "the input holds" in report.failures[0].sentence


def test_numbers_lost_in_front_of_all_layers_are_not_the_inputs_fault():
    model = nets.Written(lambda self, x: self.a(x.sqrt()), a=linear(64, 10))
    (found,) = audit(model, batch()).failures
    assert (found.layer, found.verdict) == ("a", "not finite")
    assert "the input is finite" in found.sentence


def test_several_layers_that_take_what_is_lost_are_one_failure():
    def forward(self, x):
        x = self.a(x).sqrt()
        return self.c(self.b(x) + self.d(x))

    layers = {name: linear(64, 64) for name in "abcd"}
    assert told(audit(nets.Written(forward, **layers), batch())) == [("b", "not finite")]


@pytest.mark.parametrize("backward", [True, False])
def test_numbers_lost_behind_the_last_layer_are_told_there(backward):
    report = audit(between(torch.relu, torch.sqrt), batch(), backward=backward)
    assert told(report) == [("b", "not finite")]
    assert "the model returns" in report.failures[0].sentence


def test_a_function_of_ones_own_that_makes_nan_is_named():
    model: Any = nn.Sequential(
        linear(64, 64), nets.Written(lambda self, x: x.sqrt()), nn.ReLU(), linear(64, 10)
    )
    assert told(audit(model, batch())) == [("1", "not finite")]


def test_a_gradient_that_is_lost_is_told_where_that_begins():
    def forward(self, x):
        hidden = self.a(self.first(x).relu())
        return self.b(torch.where(hidden > 0, hidden.sqrt(), 0 * hidden))

    model = nets.Written(forward, first=linear(64, 64), a=linear(64, 64), b=linear(64, 10))
    report = audit(model, batch())
    assert told(report) == [("a", "gradient not finite")]
    assert "though behind b it is finite" in report.failures[0].sentence


def test_masks_are_no_failure():
    def forward(self, x):
        scores = self.a(x)
        masked = scores.masked_fill(torch.ones(64, 64, dtype=torch.bool).triu(1), -math.inf)
        added = scores + torch.full_like(scores, -math.inf).triu(1)
        y = self.b(self.softmax(masked) @ x + added.softmax(-1) @ x)
        return y.masked_fill(torch.eye(64, 10, dtype=torch.bool), -math.inf)

    model = nets.Written(forward, a=linear(64, 64), softmax=nn.Softmax(-1), b=linear(64, 10))
    words = {each.verdict for each in audit(model, batch()).findings}
    assert not words & {"not finite", "gradient not finite", "overflows"}


class OwnReLU(nn.Module):
    def forward(self, x):
        return x.clamp(min=0)


RELUS = {
    "module": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "functional": lambda: nets.Written(lambda self, x: functional.relu(x)),
    "own": OwnReLU,
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_dead_network_fails_however_its_relu_is_written(relu, place):
    model: Any = nn.Sequential(
        *[linear(64, 64), relu(), linear(64, 64), relu(), linear(64, 64), relu(), linear(64, 10)]
    )
    assert audit(model, batch()).ok
    nn.init.constant_(model[place].bias, -8.0)
    assert not audit(model, batch()).ok


@pytest.mark.parametrize("backward", [True, False])
def test_what_enters_a_dead_relu_in_place_is_what_it_was_given(backward):
    model: Any = nn.Sequential(linear(64, 64), nn.ReLU(inplace=True), linear(64, 10))
    nn.init.constant_(model[0].bias, -20.0)
    assert ("1", "dead units") in told(audit(model, batch(), backward=backward))


def test_a_functional_relu_dead_in_front_of_the_last_layer_fails_by_its_gradient():
    model = between(torch.relu)
    nn.init.constant_(model.a.bias, -20.0)
    nn.init.normal_(model.b.bias, 0, 20)  # so that its output is not small
    assert ("b", "gradient vanishes") in told(audit(model, batch()))


def test_a_small_last_layer_is_one_thing_and_a_gradient_lost_before_it_another():
    model: Any = nn.Sequential(*[linear(64, 64, 1.0) for _ in range(4)], linear(64, 10, 1e-4))
    assert audit(model, batch()).ok
    small = nn.Parameter(torch.full((64,), 1e-3))
    model[1].register_parameter("small", small)
    # The same signal, and a thousandth of its gradient.
    model[1].register_forward_hook(lambda m, _, y: y.detach() + m.small * (y - y.detach()))
    assert "gradient vanishes" in [word for _, word in told(audit(model, batch()))]


def test_a_failure_is_told_once_whatever_leads_to_it():
    def forward(self, x):
        hidden = torch.tanh(30 * (self.a(x) + self.b(x.flip(0))))
        return self.d(torch.tanh(30 * self.c(hidden)))

    model = nets.Written(forward, **{name: linear(64, 64, 1.0) for name in "abcd"})
    assert told(audit(model, batch())) == [("c", "gradient explodes")]


class Highway(nn.Module):
    """As in Srivastava et al. 2015: the gate is nearly shut at first."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.gate = linear(width, width), linear(width, width, 1.0)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x):
        gate = torch.sigmoid(self.gate(x))
        return x * (1 - gate) + self.inner(x).relu() * gate


def test_a_highway_network_is_healthy():
    model: Any = nn.Sequential(
        linear(64, 64, 1.0), *[Highway(64) for _ in range(8)], linear(64, 10)
    )
    assert told(audit(model, batch())) == []


def test_checkpoints_change_nothing_in_a_report():
    def plain(self, x):
        return self.last(self.block(self.first(x)))

    def saved(self, x):
        return self.last(checkpoint(self.block, self.first(x), use_reentrant=False))

    reports = []
    for forward in (plain, saved):
        torch.manual_seed(0)
        block = nn.Sequential(linear(64, 64), nn.ReLU(inplace=True), nn.LayerNorm(64))
        model = nets.Written(forward, first=linear(64, 64), block=block, last=linear(64, 10))
        reports.append(audit(model, batch()).to_dict())
    assert reports[0] == reports[1]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoints_are_refused_with_a_way_out():
    def forward(self, x):
        return checkpoint(self.block, self.first(x), use_reentrant=True)

    model = nets.Written(
        forward, first=linear(64, 64), block=nn.Sequential(linear(64, 64), nn.ReLU())
    )
    with pytest.raises(ValueError, match=r"reentrant checkpoints.*use_reentrant=False.*backward=F"):
        audit(model, batch())
    assert len(audit(model, batch(), backward=False).measured) == 3


def test_sparse_inputs_and_outputs_are_let_through():
    def forward(self, pair):
        return self.a(pair[1] @ pair[0]), pair[1]

    model = nets.Written(forward, a=linear(64, 64, 1.0))
    given = {"x": (batch(), torch.eye(64).to_sparse())}
    assert audit(model, given).ok
