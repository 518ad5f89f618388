"""Numbers that are not finite: told once, where that begins, and masks are none of them."""

from __future__ import annotations

import math

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
