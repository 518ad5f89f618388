"""Restoration: whatever a run may change is afterwards what it was before, bit for bit."""

import math
import random
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from handwave import measure, repair_, restoring
from handwave.running import floating, rows


def bits(tensor):
    """Everything about one tensor but its place in the model."""
    if tensor is None:
        return None
    value = tensor.detach().contiguous().view(-1).view(torch.uint8).tolist()
    flags = tensor.requires_grad, tensor.is_leaf, tensor.dtype, tensor.stride(), tensor.data_ptr()
    grad = tensor.grad if tensor.is_leaf else None
    return id(tensor), value, flags, bits(grad), len(tensor._backward_hooks or ())


def plain(value):
    """An attribute as it compares: tensors by their bits, containers by their contents."""
    if isinstance(value, torch.Tensor):
        return bits(value)
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, dict):
        return [(key, plain(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return id(value) if isinstance(value, nn.Module) or callable(value) else repr(value)


def everything_about(model):
    """Parameters, buffers, gradients, flags, hooks, attributes, and the random generators."""
    return {
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "attributes": [plain(vars(module)) for module in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def prepared(name):
    """A member of the zoo with gradients, of which every other is None."""
    torch.manual_seed(0)
    model, inputs = zoo.ZOO[name]()
    for place, parameter in enumerate(model.parameters()):
        if place % 2:
            parameter.grad = torch.randn_like(parameter)
    return model, inputs


def plant(model, inputs, where):
    """Let a layer in the middle of the run raise, forward or when its gradient passes."""
    called = {row.name for row in measure(model, inputs, detail=False) if row.shape}
    modules = [module for module, name in rows(model).items() if name in called]
    middle: Any = modules[len(modules) // 2]
    forward = middle.forward

    def fail(*_):
        raise ZeroDivisionError("planted")

    def failing(*args, **kwargs):
        result = forward(*args, **kwargs)
        if where == "forward":
            fail()
        for tensor in floating(result):
            if tensor.requires_grad:
                tensor.register_hook(fail)
        return result

    middle.forward = failing


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_run_leaves_nothing_behind(name, backward):
    model, inputs = prepared(name)
    before = everything_about(model)
    trace = measure(model, inputs, backward=backward)
    assert everything_about(model) == before
    assert any(layer.signal.count for layer in trace)
    assert any(layer.grad for layer in trace) == backward


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("name", zoo.ZOO)
def test_an_exception_in_the_middle_leaves_nothing_behind(name, where):
    model, inputs = prepared(name)
    plant(model, inputs, where)
    before = everything_about(model)
    with pytest.raises(ZeroDivisionError, match="planted"):
        measure(model, inputs, backward=where == "backward")
    assert everything_about(model) == before


def test_the_zoo_has_more_than_forty_modules():
    assert len(zoo.ZOO) > 40


def test_a_callers_inference_mode_stays_and_gradients_are_measured_in_it():
    model, inputs = prepared("Linear")
    before = everything_about(model)
    with torch.inference_mode():
        (row,) = measure(model, inputs, backward=True)
        assert torch.is_inference_mode_enabled()
    assert row.grad
    assert everything_about(model) == before


def test_what_repeats_its_memory_is_not_written_in():
    class Expanded(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.ones(1).expand(4))

        def forward(self, x):
            return x * self.mask

    model = Expanded()
    before = everything_about(model)
    measure(model, torch.ones(2, 4))
    assert everything_about(model) == before


def test_every_kind_of_number_comes_back():
    class Kinds(nn.Module):
        def __init__(self):
            super().__init__()
            values = torch.tensor([0.0, 1.0, math.nan])
            kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8]
            kinds += [torch.int64, torch.bool, torch.complex64, torch.complex128]
            for place, dtype in enumerate(kinds):
                self.register_buffer(f"b{place}", values.nan_to_num(2).to(dtype))
            self.register_buffer("nan", values)

        def forward(self, x):
            for buffer in self.buffers():
                buffer.logical_not_() if buffer.dtype == torch.bool else buffer.neg_()
            return x

    model = Kinds()
    before = everything_about(model)
    measure(model, torch.ones(2, 4))
    assert everything_about(model) == before


def test_a_loss_that_raises_leaves_nothing_behind():
    model, inputs = prepared("containers")
    before = everything_about(model)
    with pytest.raises(KeyError):
        measure(model, inputs, backward=True, loss=lambda out: out["missing"])
    assert everything_about(model) == before


ODD = {
    "sparse": lambda: torch.eye(5).to_sparse(),
    "compressed": lambda: torch.eye(5).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "mkldnn": lambda: torch.ones(3, 3).to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "conjugated": lambda: torch.full((3,), 1j).conj(),
    "negated": lambda: torch.full((3,), 1j).conj().imag,
}


class Normed(nn.Module):
    """Whose forward may write anywhere, as far as anybody can tell."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(self.norm(x))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_a_buffer_of_any_kind_keeps_nothing_from_coming_back(kind):
    model: Any = Normed()
    x = torch.randn(5, 6)
    model.layer.register_buffer("odd", ODD[kind]())
    weight = model.layer.weight.detach().clone()
    measure(model, x, backward=True)
    assert torch.equal(model.norm.running_mean, torch.zeros(6))
    repair = repair_(model, x)
    assert torch.equal(model.norm.running_mean, torch.zeros(6))
    repair.undo()
    assert torch.equal(model.layer.weight, weight)


def test_what_fails_to_come_back_keeps_nothing_else_from_it():
    called = []

    def fail():
        raise ZeroDivisionError("planted")

    with pytest.raises(ZeroDivisionError, match="planted"):
        restoring._all([lambda: called.append("first"), fail, lambda: called.append("last")])
    assert called == ["last", "first"]


def halves(layer):
    def forward(x):
        with torch.no_grad():
            layer.weight.mul_(0.5)
        return nn.functional.linear(x, layer.weight, layer.bias)

    return forward


def test_a_forward_put_on_one_layer_may_write_in_its_weights():
    model: Any = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    model[0].forward = halves(model[0])
    before = everything_about(model)
    measure(model, torch.ones(4, 6))
    assert everything_about(model) == before


def test_a_hook_on_all_modules_may_write_in_their_weights():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    before = everything_about(model)

    def write(module, _):
        for parameter in module.parameters():
            parameter.data.mul_(0.5)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(write)
    try:
        measure(model, torch.ones(4, 6))
    finally:
        handle.remove()
    assert everything_about(model) == before


def test_a_loss_that_goes_backward_itself_leaves_gradients_alone():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = everything_about(model)

    def loss(y):
        y.sum().backward(retain_graph=True)
        return y.sum()

    measure(model, torch.ones(4, 6), backward=True, loss=loss)
    assert everything_about(model) == before


class Hides(nn.Module):
    """Keeps what it changes where torch does not look: generators, boxes in boxes, modules."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.new, self.old = np.random.default_rng(0), np.random.RandomState(0)
        self.python = random.Random(0)
        self.box = {"deep": {"torch": torch.Generator(), "log": [], "pair": (0, [torch.ones(2)])}}
        self.box["deep"]["again"] = self.box  # a cycle
        self.norms = [nn.BatchNorm1d(6), {"inner": nn.Sequential(nn.BatchNorm1d(6))}]

    def forward(self, x):
        """Change all of it."""
        deep, (outer, others) = self.box["deep"], self.norms
        deep["log"].append(self.new.random() + self.old.rand() + self.python.random())
        deep["pair"][1][0].add_(torch.rand(1, generator=deep["torch"]))
        deep["pair"][1].append(3)
        outer.called = True
        return self.layer(others["inner"](outer(x)))


def hidden(model):
    """What a model that hides holds, each under its name."""
    deep, norms = model.box["deep"], [model.norms[0], model.norms[1]["inner"][0]]
    return {
        "numpy's Generator": str(model.new.bit_generator.state),
        "numpy's RandomState": str(model.old.get_state()),
        "Python's Random": model.python.getstate(),
        "torch's Generator in boxes": plain(deep["torch"]),
        "list in boxes": list(deep["log"]),
        "tensor in boxes": plain(deep["pair"]),
        "modules in boxes": [plain(list(norm._buffers.values())) for norm in norms],
        "attributes of modules in boxes": [sorted(vars(norm)) for norm in norms],
        "keys": [list(model.box), list(deep)],
    }


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_what_a_model_hides_comes_back_too(backward):
    model = Hides()
    before = hidden(model)
    measure(model, torch.randn(8, 6), backward=backward)
    after = hidden(model)
    assert [name for name in before if before[name] != after[name]] == []
    model(torch.randn(8, 6))
    after = hidden(model)
    assert [name for name in before if before[name] == after[name]] == ["keys"]


def test_a_lazy_module_in_a_list_can_be_called_again():
    class Lazy(Hides):
        def __init__(self):
            super().__init__()
            self.lazy = [nn.LazyLinear(6)]

        def forward(self, x):
            return self.lazy[0](super().forward(x))

    model, x = Lazy(), torch.randn(8, 6)
    measure(model, x)
    assert model(x).shape == (8, 6)


def test_containers_in_what_the_caller_passes_are_copies():
    class Writes(nn.Module):
        def forward(self, x, cache):
            cache["log"].append(x)
            cache["more"][0].zero_()
            return x

    cache = {"log": [], "more": (torch.ones(2),)}
    measure(Writes(), (torch.ones(3), cache))
    assert cache["log"] == []
    assert cache["more"][0].tolist() == [1.0, 1.0]


class Repeats(nn.Module):
    """It holds what `expand` made of one number, of which a copy would take gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.mask = torch.ones(1, 1).expand(100_000, 100_000)
        self.rows = torch.arange(3.0)[:, None].expand(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows[:, 0].add_(1.0)
        return self.layer(x)


def test_what_repeats_itself_in_memory_is_copied_once_and_comes_back():
    model = Repeats()
    measure(model, torch.ones(2, 4))
    assert model.rows.stride() == (1, 0)
    assert torch.equal(model.rows, torch.arange(3.0)[:, None].expand(3, 4))


class NeverRead(tuple):
    def __iter__(self) -> Any:
        raise RuntimeError("not now")


def test_objects_that_answer_nothing_are_left_alone():
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    kept = torch.zeros(2)
    model.held = [weakref.proxy(nn.ReLU()), NeverRead((kept,))]  # of the first nothing is left

    def hook(*_: Any) -> None:
        kept.add_(1)

    model.register_forward_hook(hook)
    measure(model, torch.ones(2, 4))
    assert torch.equal(kept, torch.zeros(2))
