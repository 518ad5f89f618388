"""Numbers that are not finite: told once, where that begins, and masks are none of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import networks as nets
from handwave import audit
from networks import between, linear, told


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def batch():
    return torch.randn(64, 64)


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
    model = nn.Sequential(
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


class Own(nn.Module):
    """A module of one's own around a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def future(x):
    """What none of the inputs may look at."""
    return torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).triu(1)


def causal(x):
    return torch.zeros(x.shape[-2], x.shape[-2]).masked_fill(future(x), -math.inf)


def filled(scores):
    return scores.masked_fill(future(scores), -math.inf)


def attention(weigh, last=True):
    """One head, whose weights are made of scores and modules that mask; with a layer behind."""

    def forward(self, x):
        mixed = weigh(self, x, self.q(x) @ self.k(x).mT / 8) @ self.v(x)
        return self.last(mixed) if last else mixed

    layers = {name: linear(64, 64, 1.0) for name in ("q", "k", "v", "last")[: 3 + last]}
    masks = {"mask": Own(causal), "fill": Own(filled), "hand_on": nn.Identity()}
    return nets.Written(forward, softmax=nn.Softmax(-1), **layers, **masks)


MASKS = {
    "added": lambda m, x, s: (s + m.mask(x)).softmax(-1),
    "added by a sum of equal shapes": lambda m, x, s: m.softmax(s + m.mask(x).expand_as(s)),
    "filled in": lambda m, x, s: m.softmax(m.fill(s)),
    "filled in, and a function": lambda m, x, s: m.fill(s).softmax(-1),
    "handed on": lambda m, x, s: m.softmax(m.hand_on(m.fill(s))),
    "handed on from a function": lambda m, x, s: m.softmax(m.hand_on(filled(s))),
}


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("weigh", MASKS.values(), ids=MASKS)
def test_masks_that_modules_make_are_no_failure(weigh, backward):
    report = audit(attention(weigh), torch.randn(8, 16, 64), backward=backward)
    assert report.findings == ()


@pytest.mark.parametrize("weigh", MASKS.values(), ids=MASKS)
def test_masks_are_no_failure_where_no_layer_comes_behind_them(weigh):
    assert audit(attention(weigh, last=False), torch.randn(8, 16, 64)).findings == ()


@pytest.mark.parametrize("last", [True, False])
def test_a_mask_is_a_failure_where_it_leaves_an_input_nothing_to_look_at(last):
    model = attention(lambda m, x, s: (s + m.mask(x) + m.mask(x).mT + m.own(x)).softmax(-1), last)
    model.own = Own(lambda x: torch.zeros(16, 16).fill_diagonal_(-math.inf))
    assert ("mask", "overflows") in told(audit(model, torch.randn(8, 16, 64)))


def test_scores_with_a_mask_are_no_step_of_a_residual_stream():
    def forward(self, x):
        x = x + self.a(x)
        return self.b((x @ x.mT / 64 + self.mask(x)).softmax(-1) @ x)

    layers = {"a": linear(64, 64, 1.0), "b": linear(64, 10, 1.0)}
    model = nets.Written(forward, mask=Own(causal), **layers)
    assert audit(model, batch()).findings == ()


def test_what_explodes_behind_masked_scores_of_the_input_is_seen():
    def forward(self, x):
        return self.b(self.a((x @ x.mT / 64 + self.mask(x)).softmax(-1) @ x))

    model = nets.Written(forward, mask=Own(causal), a=linear(64, 64, 1.0), b=linear(64, 64, 1e4))
    assert told(audit(model, batch())) == [("b", "explodes")]


def minus_exp(z):
    return -(1000 * z).exp()


@pytest.mark.parametrize(
    ("layers", "place"),
    [
        pytest.param(lambda: [Own(minus_exp), linear(64, 10)], "1", id="and a layer"),
        pytest.param(lambda: [Own(minus_exp), nn.ReLU(), linear(64, 10)], "1", id="cut off"),
        pytest.param(lambda: [Own(minus_exp)], "1", id="at the end"),
        pytest.param(lambda: [nn.ReLU(), Own(torch.log)], "2", id="log(0)"),
        pytest.param(lambda: [nn.ReLU(), Own(torch.log), nn.Softmax(-1)], "2", id="log, softmax"),
        pytest.param(lambda: [Own(lambda z: (1000 * z).exp()), nn.Tanh()], "1", id="+inf"),
        pytest.param(lambda: [Own(lambda z: 1e38 * (9e9 * z)), nn.Tanh()], "1", id="both"),
    ],
)
def test_numbers_that_become_infinite_are_no_masks(layers, place):
    model = nn.Sequential(linear(64, 64, 1.0), *layers())
    assert told(audit(model, batch())) == [(place, "overflows")]


@pytest.mark.parametrize("backward", [True, False])
def test_what_is_below_the_range_of_float16_is_no_mask(backward):
    front = linear(64, 64, 1e4), nn.ReLU()
    sums = linear(64, 64, 1.0)
    nn.init.constant_(sums.weight[:8], -2000.0)
    for below in (nn.Sequential(Own(lambda z: -2000 * z)), nn.Sequential(sums, nn.Softmax(-1))):
        report = audit(nn.Sequential(*front, *below).half(), batch().half(), backward=backward)
        assert ("2", "overflows") in told(report)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_lost_by_a_layers_own_weights_are_no_overflow(value):
    torch.manual_seed(0)
    model, x = nets.relu_mlp()
    nets.unwritten(value)(model[2])
    (found,) = [each for each in audit(model, x).failures if each.layer == "2"]
    assert (found.verdict, found.cause) == ("not finite", "never initialised")
    assert "its own weights are NaN or infinite" in found.sentence


def test_numbers_lost_by_what_a_norm_has_kept_are_no_functions_fault():
    torch.manual_seed(0)
    norm: Any = nn.BatchNorm1d(64).eval()
    norm.running_var[0] = math.nan
    model = nn.Sequential(linear(64, 64), norm, linear(64, 8))
    (found,) = [each for each in audit(model, batch()).failures if each.layer == "1"]
    assert "its own weights are NaN or infinite" in found.sentence
