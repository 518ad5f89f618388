"""Running: which modules are rows, under which names, and what reaches the model."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from transformers import BatchEncoding

from handwave import audit, measure, mlp, predict, repair_
from handwave.running import arguments, floating, kind, rows, watched


def names(trace):
    return [layer.name for layer in trace]


class Two(nn.Module):
    """A layer, and something added to it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, a, b=None, flip=False):
        return self.fc(a) + (0 if b is None else b)


A, B = torch.randn(2, 3), torch.randn(2, 3)


@pytest.mark.parametrize(
    "inputs",
    [A, (A,), (A, B), {"a": A}, {"a": A, "b": B, "flip": True}, BatchEncoding({"a": A})],
    ids=["tensor", "tuple", "two", "dict", "by name", "tokenizer's"],
)
def test_inputs_are_positional_or_by_name(inputs):
    assert names(measure(Two(), inputs)) == ["fc"]


def test_inputs_are_not_written_in_wherever_they_stand():
    class Writes(nn.Module):
        def forward(self, x, listed, named):
            for tensor in (x, listed[0], named["deep"][0]):
                tensor.zero_()
            listed.append(0)
            return x

    given = (torch.ones(2), [torch.ones(2)], {"deep": (torch.ones(2),)})
    measure(Writes(), given)
    assert len(given[1]) == 1
    assert all(torch.equal(t, torch.ones(2)) for t in floating(given))


def test_inputs_keep_their_layout_and_whether_they_require_a_gradient():
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    ((copy,), _) = arguments(x)
    assert copy.stride() == x.stride()
    assert copy.requires_grad
    assert copy.is_leaf
    assert copy.data_ptr() != x.data_ptr()


def test_one_module_at_two_places_is_one_layer_called_twice():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(OrderedDict(first=shared, act=nn.Tanh(), second=shared))
    trace = measure(model, torch.randn(2, 4))
    assert names(trace) == ["first", "act", "first#2"]
    assert trace["first"].weight == trace["first#2"].weight


def test_rows_are_named_as_their_owner_names_them():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU())])
            self.attention = nn.MultiheadAttention(4, 2)
            self.normed = parametrizations.weight_norm(nn.Linear(2, 2))
            self.scales = nn.ParameterList([nn.Parameter(torch.ones(1))])
            self.nothing = nn.ModuleDict()

    found = rows(Owner())
    assert list(found.values()) == ["blocks.0.0", "blocks.0.1", "attention", "normed"]
    assert [kind(module) for module in found] == ["Linear", "ReLU", "MultiheadAttention", "Linear"]


def test_a_layer_alone_is_named_by_its_kind():
    assert list(rows(nn.Linear(2, 2)).values()) == ["Linear"]


def test_the_first_floating_tensor_is_found_wherever_it_stands():
    @dataclass
    class Data:
        ids: Any
        hidden: Any

    pair = namedtuple("pair", "a b")
    x, y, ids = torch.zeros(1), torch.ones(1), torch.arange(2)
    for value in (x, (ids, x), [[x]], {"i": ids, "x": x}, Data(ids, (x,)), pair(ids, x)):
        assert [id(tensor) for tensor in floating(value)] == [id(x)]
    assert list(floating((x, {"y": y}))) == [x, y]
    assert not list(floating((None, "text", 3.0, ids, Data)))


def refuse(graph, inputs):
    raise AssertionError("the model was compiled")


def whole(net):
    return torch.compile(net, backend=refuse)


def in_place(net):
    net.compile(backend=refuse)
    return net


def by_forward(net):
    net.forward = torch.compile(net.forward, backend=refuse)
    return net


@pytest.mark.parametrize("wrap", [nn.DataParallel, whole, in_place, by_forward])
def test_wrappers_leave_no_trace_in_names(wrap):
    """The backend is never called: layers inside compiled code have no outputs to look at."""
    x = torch.randn(2, 4)
    assert names(measure(wrap(mlp(4, 2, nn.ReLU)), x)) == ["0", "1", "2", "3"]


def test_a_compiled_part_is_named_as_if_it_were_not():
    compiled: Any = whole(mlp(4, 1, nn.ReLU))
    trace = measure(nn.Sequential(compiled, nn.Tanh()), torch.randn(2, 4))
    assert names(trace) == ["0.0", "0.1", "1"]


def test_a_model_that_was_compiled_before_runs_its_layers_and_is_compiled_after():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    net: Any = torch.compile(mlp(4, 2, nn.ReLU), backend=backend)
    x = torch.randn(2, 4)
    net(x)
    assert names(measure(net, x, backward=True)) == ["0", "1", "2", "3"]
    assert len(compiled) == 1
    net(x)
    assert len(compiled) == 1, "hooks that were left behind would compile it anew"


def test_the_copies_that_data_parallel_makes_count_as_the_layer_itself():
    layer: Any = nn.Linear(3, 3)
    net, seen = nn.Sequential(layer), []

    def watcher(module, name, args, kwargs, result):
        seen.append((module, name))

    with watched(rows(net), watcher):
        copy = layer._replicate_for_data_parallel()
        copy.forward = partial(nn.functional.linear, weight=layer.weight)
        copy(A)
        net(A)
    assert seen == [(layer, "0"), (layer, "0#2")]


@pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.LazyBatchNorm1d(affine=False)])
def test_a_lazy_layer_has_to_run_once_first(lazy):
    with pytest.raises(ValueError, match="no weights yet: call the model once on an input first"):
        measure(lazy, A)


@pytest.mark.parametrize("run", [measure, audit, repair_, predict])
def test_a_model_without_values_is_refused_with_what_to_do(run):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3, device="meta"))
    with pytest.raises(ValueError, match=r"meta device has no weights yet: call \.to_empty, draw"):
        run(model, A)


@pytest.mark.parametrize("function", [measure, predict, audit, repair_])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_script_is_refused_by_name(function):
    model = nn.Sequential(torch.jit.script(nn.Linear(3, 3)))
    with pytest.raises(TypeError, match=r"TorchScript cannot be watched: pass the module that"):
        function(model, A)
