"""Verdicts: numbers that are lost are told where that begins, and nothing is told twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import networks as nets
from handwave import audit
from networks import between, linear, told


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def batch():
    return torch.randn(64, 64)


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


def test_a_functional_relu_is_dead_by_the_layer_in_front():
    model = between(torch.relu)
    nn.init.constant_(model.a.bias, -20.0)
    nn.init.normal_(model.b.bias, 0, 20)  # so that its output is not small
    report = audit(model, batch())
    assert told(report) == [("a", "dead units")]
    assert "100% of what the ReLU behind it hands on is zero" in report.failures[0].sentence


def test_a_functional_tanh_is_saturated_by_the_layer_in_front():
    model = between(torch.tanh)
    nn.init.normal_(model.a.weight, 0, 10)
    assert told(audit(model, batch())) == [("a", "saturated")]


def test_a_saturated_activation_tells_which_layer_made_it_so():
    model: Any = nn.Sequential(linear(64, 64, 1e4), nn.Tanh(), linear(64, 10))
    failure = audit(model, batch()).failures[0]
    assert (failure.layer, failure.verdict) == ("1", "saturated")
    assert "behind 0, whose rms is 99.9" in failure.sentence


def test_scores_that_a_softmax_leaves_out_are_no_dead_units():
    def forward(self, x):
        near = torch.ones(64, 64).triu(-1).tril(1).log()
        return self.b((self.a(x) @ x.mT + near).softmax(-1) @ x)

    model = nets.Written(forward, a=linear(64, 64, 1.0), b=linear(64, 10, 1.0))
    assert audit(model, batch()).ok


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
        hidden = torch.sin(30 * (self.a(x) + self.b(x.flip(0))))
        return self.d(torch.tanh(self.c(hidden)))

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


def attending():
    """Attention between two layers, with nothing beside it."""

    def forward(self, x):
        y = self.a(x)
        return self.b(self.m(y, y, y, need_weights=False)[0])

    m = nn.MultiheadAttention(64, 4, batch_first=True)
    for weight in (*m.in_proj_weight.detach().chunk(3), m.out_proj.weight):
        nn.init.xavier_uniform_(weight)
    return nets.Written(forward, a=linear(64, 64, 1.0), m=m, b=linear(64, 10, 1.0))


@pytest.mark.parametrize("weight", ["in_proj_weight", "out_proj.weight"])
@pytest.mark.parametrize(("scale", "word"), [(100, "explodes"), (1, ""), (1e-3, "vanishes")])
def test_attention_is_named_for_its_own_scale_and_what_follows_is_not(weight, scale, word):
    model: Any = attending()
    with torch.no_grad():
        model.m.get_parameter(weight).mul_(scale)
    report = audit(model, torch.randn(32, 16, 64))
    assert told(report) == ([("m", word)] if word else [])
    assert report.findings == report.failures


@pytest.mark.parametrize("queries", [1, 64, 512])
def test_attention_to_many_positions_may_average_much_away(queries):
    def forward(self, x):
        y = self.a(x)
        return self.b(self.m(y[:, :queries], y, y, need_weights=False)[0])

    model: Any = attending()
    model.steps = forward
    assert not audit(model, torch.randn(8, 512, 64)).findings


def pooled(reduce, width=64):
    """A convolutional Tanh network whose maps are averaged, with two layers behind."""

    def forward(self, x):
        for name in "abc":
            x = torch.tanh(getattr(self, name)(x))
        return self.e(torch.tanh(self.d(reduce(x))))

    tanh = nets.square(nn.Tanh)
    convs = [nn.Conv2d(a, width, 3, padding=1) for a in (3, width, width)]
    layers = [nets.drawn(conv, tanh if place else 1.0) for place, conv in enumerate(convs)]
    layers += [linear(width, width, tanh), linear(width, 10, tanh)]
    return nets.Written(forward, **dict(zip("abcde", layers, strict=True)))


POOLS = {
    "layer": lambda x: nn.AdaptiveAvgPool2d(1)(x).flatten(1),
    "function": lambda x: x.mean((2, 3)),
}


@pytest.mark.parametrize("reduce", POOLS.values(), ids=POOLS)
def test_what_pooling_averages_away_is_no_loss_but_what_a_layer_loses_is(reduce):
    model: Any = pooled(reduce)
    images = torch.randn(16, 3, 24, 24)
    report = audit(model, images)
    assert not report.findings
    assert report.measured["d"].signal.rms < 0.1 * report.measured["a"].signal.rms
    with torch.no_grad():
        model.d.weight.mul_(1e-3)
    assert ("d", "vanishes") in told(audit(model, images))


def stream(scale):
    """Eight blocks between two layers, without norms."""
    blocks = [nets.Block(64, norm=False, scale=scale) for _ in range(8)]
    return nn.Sequential(linear(64, 64, 1.0), *blocks, linear(64, 10, 1.0))


def noisy(bias, weight):
    nn.init.normal_(bias, 0, 3)


def tenfold(bias, weight):
    weight.mul_(10)


def hundredfold(bias, weight):
    weight.mul_(100)


@pytest.mark.parametrize("place", [1, 4, 8])
@pytest.mark.parametrize("layer", ["up", "down"])
@pytest.mark.parametrize("plant", [noisy, tenfold, hundredfold])
def test_one_block_that_grows_is_not_called_growth_of_all(place, layer, plant):
    model: Any = stream(1 / 8)
    spoilt = model[place].get_submodule(layer)
    with torch.no_grad():
        plant(spoilt.bias, spoilt.weight)
    report = audit(model, batch())
    assert {each.layer for each in report.findings} <= {f"{place}.{layer}"}
    assert nets.named(report) == ({(f"{place}.{layer}", "bias noise")} if plant is noisy else set())
    assert plant is not hundredfold or not report.ok


def test_growth_of_all_blocks_is_named_beside_a_larger_one_too():
    model: Any = stream(1.0)
    with torch.no_grad():
        model[1].down.weight.mul_(3)
    assert "residual growth" in {cause for _, cause in nets.named(audit(model, batch()))}
