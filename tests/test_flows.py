"""Streams and flows: who feeds whom in one run, however the model's forward is written."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import networks as nets

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def linear():
    return nn.Linear(16, 16)


def names(nodes):
    """Rows by their names, sums as +."""
    return [node.row.name if node.row else "+" for node in nodes]


def find(flow, name):
    (node,) = [node for node in flow if node.row and node.row.name == name]
    return node


def sums(flow):
    return [node for node in flow if node.parts]


def test_a_chain_is_a_chain():
    flow = nets.flow_of(nn.Sequential(linear(), nn.ReLU(), linear(), nn.Tanh(), linear()), X)
    assert names(flow) == ["0", "1", "2", "3", "4"]
    assert names(flow.before(find(flow, "2"))) == ["0"]
    assert names(flow.behind(find(flow, "2"))) == ["4"]
    assert not flow.before(find(flow, "0"))
    assert not flow.behind(find(flow, "4"))
    assert not sums(flow)
    assert not flow.in_branches()


def test_ancestors_are_all_in_front():
    flow = nets.flow_of(nn.Sequential(linear(), nn.ReLU(), linear()), X)
    in_front = {find(flow, name).number for name in ("0", "1")}
    assert flow.ancestors(find(flow, "2").number) == in_front


@pytest.mark.parametrize(
    "add",
    [
        lambda x, y: x + y,
        lambda x, y: y + x,
        lambda x, y: y.add_(x),
        torch.add,
        lambda x, y: y.__iadd__(x),
    ],
    ids=["x + y", "y + x", "add_", "torch.add", "+="],
)
def test_a_sum_is_a_node_however_it_is_written(add):
    def forward(self, x):
        x = self.first(x)
        return self.last(add(x, self.inner(x)))

    model = nets.Written(forward, first=linear(), inner=linear(), last=linear())
    flow = nets.flow_of(model, X)
    (total,) = sums(flow)
    assert names(flow) == ["first", "inner", "+", "last"]
    assert names(flow.before(total)) == ["first", "inner"]
    assert names(flow.before(find(flow, "last"))) == ["+"]
    assert names(flow.before(find(flow, "last"), through_sums=True)) == ["first", "inner"]
    assert names(flow.behind(find(flow, "first"), through_sums=True)) == ["inner", "last"]
    assert names(flow.nodes[number] for number in flow.in_branches()) == ["inner"]


def test_a_sum_is_measured():
    def forward(self, x):
        x = self.first(x)
        return x + self.inner(x)

    model = nets.Written(forward, first=linear(), inner=linear())
    (total,) = sums(nets.flow_of(model, X))
    made = model(X).detach().square().mean()
    assert total.signal.second_moment == pytest.approx(float(made), rel=1e-3)
    assert total.units == 16


def test_a_bias_and_a_constant_are_no_sums():
    def forward(self, x):
        return self.last(self.first(x) + 1 + torch.ones(16))

    flow = nets.flow_of(nets.Written(forward, first=linear(), last=linear()), X)
    assert not sums(flow)
    assert names(flow.before(find(flow, "last"))) == ["first"]


def test_what_is_done_to_an_output_keeps_where_it_came_from():
    def forward(self, x):
        x = torch.relu(self.first(x)).view(2, 4, 16).transpose(0, 1)
        return self.last(x.reshape(-1, 16)[:4] * 2)

    flow = nets.flow_of(nets.Written(forward, first=linear(), last=linear()), X)
    assert names(flow.before(find(flow, "last"))) == ["first"]


def test_parts_that_are_joined_come_from_both():
    def forward(self, x):
        return self.last(torch.cat([self.first(x), self.second(x)], dim=1))

    model = nets.Written(forward, first=linear(), second=linear(), last=nn.Linear(32, 4))
    assert names(nets.flow_of(model, X).before(find(nets.flow_of(model, X), "last"))) == [
        "first",
        "second",
    ]


def test_the_activation_in_front_is_found_through_dropout():
    model = nn.Sequential(
        linear(), nn.GELU(), nn.Dropout(0.1), nn.Identity(), linear(), nn.LayerNorm(16), linear()
    )
    flow = nets.flow_of(model, X)
    found = flow.activation_before(find(flow, "4"))
    assert found
    assert names([found]) == ["1"]
    assert flow.activation_before(find(flow, "6")) is None
    assert flow.activation_before(find(flow, "0")) is None


@pytest.mark.parametrize(
    ("called", "layer"),
    [
        (torch.relu, nn.ReLU()),
        (lambda x: torch.relu(input=x), nn.ReLU()),
        (lambda x: F.relu(x, inplace=True), nn.ReLU()),
        (lambda x: x.relu_(), nn.ReLU()),
        (lambda x: F.dropout(x.tanh(), 0.1).flatten(1), nn.Tanh()),
        (lambda x: F.leaky_relu(x, 0.3), nn.LeakyReLU(0.3)),
        (lambda x: F.elu(x, alpha=0.5), nn.ELU(0.5)),
        (lambda x: F.gelu(x, approximate="tanh"), nn.GELU("tanh")),
    ],
)
def test_an_activation_in_front_may_be_a_function(called, layer):
    def forward(self, x):
        return self.last(self.drop(called(self.first(x))))

    model = nets.Written(forward, first=linear(), drop=nn.Dropout(0.1), last=linear())
    flow = nets.flow_of(model, X)
    found = flow.activation_before(find(flow, "last"))
    assert found
    assert found.module
    assert torch.equal(found.module(X.clone()), layer(X.clone()))


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x,
        lambda x: torch.relu(x) + x,
        lambda x: torch.relu(x) * x,
        lambda x: torch.relu(x).mul_(x),
        lambda x: torch.relu(x).add_(x),
    ],
)
def test_behind_what_joins_two_tensors_no_activation_is_in_front(between):
    model = nets.Written(
        lambda self, x: self.last(between(self.first(x))), first=linear(), last=linear()
    )
    flow = nets.flow_of(model, X)
    assert flow.activation_before(find(flow, "last")) is None


def test_an_activation_is_forgotten_behind_the_next_layer():
    def forward(self, x):
        return self.last(self.act(torch.tanh(self.first(x))))

    model = nets.Written(forward, first=linear(), act=nn.ReLU(inplace=True), last=linear())
    flow = nets.flow_of(model, X)
    found = flow.activation_before(find(flow, "last"))
    assert found
    assert names([found]) == ["act"]


def test_a_scale_is_set_by_the_norm_in_front():
    model = nn.Sequential(linear(), nn.LayerNorm(16), linear(), nn.ReLU(), linear())
    flow = nets.flow_of(model, X)
    assert [flow.normed(find(flow, name).number) for name in "024"] == [False, True, True]
    assert names(flow.behind(find(flow, "0"))) == ["1"]


def test_a_shared_module_is_two_nodes():
    layer = linear()
    flow = nets.flow_of(nn.Sequential(layer, nn.ReLU(), layer, linear()), X)
    assert names(flow) == ["0", "1", "0#2", "3"]
    assert names(flow.before(find(flow, "3"))) == ["0#2"]
    assert find(flow, "0").module is find(flow, "0#2").module


def test_an_in_place_activation_stands_between():
    flow = nets.flow_of(nn.Sequential(linear(), nn.ReLU(inplace=True), linear()), X)
    found = flow.activation_before(find(flow, "2"))
    assert found
    assert names([found]) == ["1"]
    assert names(flow.before(find(flow, "2"))) == ["0"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_an_lstm_returns_comes_from_it(kind):
    def forward(self, x):
        outputs, _ = self.cells(self.first(x)[None])
        return self.last(outputs[-1])

    model = nets.Written(forward, first=linear(), cells=kind(16, 16), last=linear())
    flow = nets.flow_of(model, X)
    assert find(flow, "last").sources == {find(flow, "cells").number}
    assert find(flow, "cells").sources == {find(flow, "first").number}


def test_attention_is_in_the_branch_that_it_is_added_in():
    def forward(self, x):
        y = self.norm(x := self.first(x[None]))
        return self.last(x + self.attend(y, y, y, need_weights=False)[0])

    attend = nn.MultiheadAttention(16, 2, batch_first=True)
    model = nets.Written(
        forward, first=linear(), norm=nn.LayerNorm(16), attend=attend, last=linear()
    )
    flow = nets.flow_of(model, X)
    inside = names(flow.nodes[number] for number in sorted(flow.in_branches()))
    assert inside == ["norm", "attend"]
    assert len(sums(flow)) == 1


def test_both_blocks_of_an_encoder_are_branches():
    torch.manual_seed(0)
    model, x = nets.encoder(2)
    flow = nets.flow_of(model, x)
    inside = set(names(flow.nodes[number] for number in flow.in_branches()))
    blocks = {f"{place}.{part}" for place in (0, 2) for part in ("norm", "qkv", "out")}
    blocks |= {f"{place}.{part}" for place in (1, 3) for part in ("norm", "up", "act", "down")}
    assert inside == blocks
    assert len(sums(flow)) == 4


def test_two_paths_that_begin_anew_are_no_branch():
    def forward(self, x):
        return self.last(self.first(x) + self.second(x))

    model = nets.Written(forward, first=linear(), second=linear(), last=linear())
    assert not nets.flow_of(model, X).in_branches()


def test_entries_of_a_unit_are_positions():
    flow = nets.flow_of(nn.Sequential(nn.Conv2d(3, 5, 3)), torch.randn(2, 3, 8, 8))
    assert find(flow, "0").positions == 36
    assert find(flow, "0").units == 180
