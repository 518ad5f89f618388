"""Faults that something hides, and healthy parts that stand beside a fault: who is named."""

import math
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import handwave as hw

X = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


def linear(inputs: int = 64, outputs: int = 64, gain: float = 1.0, bias: float = 0.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs))
    nn.init.constant_(layer.bias, bias)
    return layer


def told(model: nn.Module, inputs: Any = X) -> list[tuple[str, str]]:
    return [(f.layer, f.verdict) for f in hw.audit(model, inputs).failures]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Own(nn.Module):
    """Whatever is written between some layers."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any) -> Any:
        return self.written(self, *args)


def stack(between: Any, gain: float = 1.0) -> nn.Sequential:
    parts = [part for _ in range(4) for part in (linear(gain=gain), between())]
    return nn.Sequential(*parts, linear())


class ActNorm(nn.Module):
    """A norm by name, which measures only once, long ago."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Centred(nn.Module):
    """A norm by what it does, not by name."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (64,))


def remembered():
    return nn.BatchNorm1d(64).eval()


@pytest.mark.parametrize("between", [remembered, ActNorm])
def test_a_norm_that_does_not_measure_hides_nothing(between):
    model: Any = stack(between)
    assert told(model) == []
    model[2].weight.data.mul_(100)
    assert told(model)[0] == ("2", "explodes")


def test_a_norm_by_another_name_is_one():
    model: Any = stack(Centred)
    model[2].weight.data.mul_(100)
    assert told(model) == []


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_called_as_a_function_measures_in_training(training):
    def forward(self, x):
        kept = torch.zeros(64), torch.ones(64)
        h = F.batch_norm(self.a(x), *kept, training=training)
        return self.c(self.b(h))

    model: Any = Own(forward, a=linear(), b=linear(), c=linear())
    model.a.weight.data.mul_(100)
    assert told(model) == ([] if training else [("a", "explodes")])


def zero(module: Any) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize(
    ("model", "inputs", "name"),
    [
        (lambda: nn.Sequential(linear(), zero(nn.LayerNorm(64)), linear()), X, "1"),
        (lambda: nn.Sequential(linear(), zero(nn.BatchNorm1d(64)), linear()), X, "1"),
        (lambda: nn.Sequential(zero(nn.Embedding(64, 8)), linear(8, 4)), torch.arange(64), "0"),
    ],
    ids=["LayerNorm", "BatchNorm1d", "Embedding"],
)
def test_whoever_makes_all_inputs_one_is_named(model, inputs, name):
    assert told(model(), inputs) == [(name, "collapsed")]


def test_the_same_input_again_and_again_is_no_collapse():
    assert told(nn.Sequential(linear(), nn.Tanh(), linear()), X[:1].repeat(64, 1)) == []


def test_a_zero_last_layer_may_give_the_same_for_all():
    assert told(nn.Sequential(linear(), nn.Tanh(), zero(linear()))) == []


def relu_beside(self, x):
    return self.o(x + F.relu(self.a(x)))


def tanh_beside(self, x):
    return self.o(x + torch.tanh(self.a(x)))


@pytest.mark.parametrize(
    ("forward", "fault", "word"),
    [
        (relu_beside, {"bias": -20.0}, "dead units"),
        (tanh_beside, {"gain": 100.0}, "saturated"),
    ],
)
def test_a_function_in_front_of_a_sum_is_looked_at(forward, fault, word):
    assert told(Own(forward, a=linear(), o=linear())) == []
    assert told(Own(forward, a=linear(**fault), o=linear())) == [("a", word)]


@pytest.mark.parametrize(
    "gate",
    [lambda y: y * torch.sigmoid(y), lambda y: torch.sigmoid(1.7 * y).mul(y)],
)
def test_a_gate_on_its_own_input_is_not_saturated(gate):
    model = Own(lambda self, x: self.o(gate(self.a(x))), a=linear(), o=linear())
    assert told(model, 100 * X) == []


@pytest.mark.parametrize("hold", [F.hardtanh, lambda y: y.clamp(-1, 1)])
def test_what_is_held_on_both_sides_is_saturated(hold):
    model = Own(lambda self, x: self.o(hold(self.a(x))), a=linear(gain=50.0), o=linear())
    assert told(model) == [("a", "saturated")]


def test_a_layer_that_narrows_is_held_against_what_enters_it():
    model: Any = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    images = torch.randn(32, 1, 14, 14)
    assert told(model, images) == []
    model[6].weight.data.mul_(100)
    assert told(model, images) == [("6", "explodes")]


@pytest.mark.parametrize(("factor", "word"), [(1e-3, "vanishes"), (1e2, "explodes")])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_of_a_first_layer_the_others_are_not_blamed(activation, factor, word):
    layers = [linear(gain=2**0.5 if activation is nn.ReLU else 1.0) for _ in range(5)]
    model: Any = nn.Sequential(*[part for layer in layers for part in (layer, activation())])
    nn.init.uniform_(model[8].bias, -0.1, 0.1)
    assert told(model) == []
    model[0].weight.data.mul_(factor)
    assert told(model) == [("0", word)]


@pytest.mark.parametrize("factor", [1e-3, 1.0])
def test_a_branch_that_begins_small_and_ends_in_zeros_makes_no_sum_explode(factor):
    def coupled(self, x):
        one, other = x.chunk(2, 1)
        return torch.cat([one, other + self.b(F.relu(self.a(one)))], 1)

    model: Any = Own(coupled, a=linear(32, 64), b=zero(linear(64, 32)))
    model.a.weight.data.mul_(factor)
    assert told(model) == []


def policy(self, x, noise):
    mean = self.b(torch.tanh(self.a(x)))
    if noise == "like":
        return mean + torch.randn_like(mean)
    if noise == "drawn":
        return torch.distributions.Normal(mean, self.log_std.exp().expand_as(mean)).rsample()
    return mean


@pytest.mark.parametrize("noise", ["none", "like", "drawn"])
def test_noise_is_no_second_part_of_a_sum(noise):
    model: Any = Own(policy, a=linear(), b=linear(64, 4, gain=0.01))
    model.log_std = nn.Parameter(torch.zeros(4))
    assert told(model, (X, noise)) == []


class Block(nn.Module):
    """Its branch ends in zeros, as is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), zero(linear())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))


def test_behind_other_faults_zeros_are_not_blamed():
    model: Any = nn.Sequential(linear(), Block(), Block(), linear())
    assert told(model) == []
    model[0].weight.data[0, 0] = math.nan
    assert told(model) == [("0", "not finite")]
    zero(model[0])
    assert told(model) == [("0", "symmetric")]


def test_a_collapsed_gate_is_a_remark_where_the_signal_comes_past():
    def gated(self, x):
        return self.o(self.h(x) * F.softplus(self.gate(x)))

    model = Own(gated, h=linear(), gate=linear(gain=0.01, bias=-4.6), o=linear(gain=30.0))
    report = hw.audit(model, X)
    assert ("gate", "collapsed") in [(f.layer, f.verdict) for f in report.findings]
    assert "collapsed" not in [f.verdict for f in report.failures]


def test_what_is_too_small_is_no_cause_of_an_explosion():
    model: Any = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    nn.init.constant_(model[2].bias, 100.0)
    causes = {f.cause for f in hw.audit(model, X).findings if f.verdict == "explodes"}
    assert causes <= {"bias noise"}


def test_without_entries_nothing_is_called_healthy():
    with pytest.raises(ValueError, match="no entries; pass a batch"):
        hw.audit(linear(), X[:0])


def differentiating(self, x):
    x = x.requires_grad_()
    energy = self.b(torch.tanh(self.a(x)))
    return torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


def allowed(self, x):
    with torch.enable_grad():
        return differentiating(self, x)


@pytest.mark.parametrize("call", [hw.measure, hw.repair_])
def test_who_differentiates_where_nothing_is_noted_hears_what_to_do(call):
    layers = {"a": linear(), "b": linear(64, 1)}
    with pytest.raises(ValueError, match=r"with torch\.enable_grad"):
        call(Own(differentiating, **layers), X)
    call(Own(allowed, **layers), X)
    assert hw.audit(Own(differentiating, **layers), X).ok


@pytest.mark.parametrize(
    ("inputs", "hint"),
    [
        ([X, X], "pass torch.stack of it"),
        (X.numpy(), "pass torch.as_tensor of it"),
        (torch.utils.data.DataLoader([1, 2]), "next\\(iter\\(loader\\)\\)"),  # pyright: ignore
        (None, "pass a batch"),
    ],
    ids=["list", "ndarray", "DataLoader", "None"],
)
def test_inputs_of_another_kind_are_told_what_to_pass(inputs, hint):
    with pytest.raises(TypeError, match=hint):
        hw.audit(linear(), inputs)


def test_inputs_without_numbers_are_refused():
    with pytest.raises(ValueError, match="on the meta device hold no numbers"):
        hw.measure(linear(), X.to("meta"))


def test_a_packed_sequence_is_one_input():
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 3, 8), [5, 4, 2])
    trace = hw.measure(nn.LSTM(8, 8), packed)
    assert len(trace) == 1


def test_weights_of_variance_1_are_known():
    model: Any = nn.Sequential(*[p for _ in range(4) for p in (linear(gain=2**0.5), nn.ReLU())])
    assert hw.audit(model, X).findings == ()
    nn.init.normal_(model[4].weight)
    (found,) = hw.audit(model, X).findings
    assert (found.layer, found.cause, found.lesson) == ("4", "variance 1", "5, square-root")


def test_an_embedding_of_variance_1_is_as_it_should_be():
    model: Any = nn.Sequential(nn.Embedding(50, 64), linear(), nn.Tanh(), linear())
    assert hw.audit(model, torch.arange(50)).findings == ()


def test_zeros_in_the_way_of_the_signal_are_a_failure_whatever_noise_comes_behind():
    def forward(self, x):
        mean = self.b(F.relu(self.a(x)))
        return self.c(mean + torch.randn_like(mean))

    model: Any = Own(forward, a=linear(), b=linear(), c=linear())
    zero(model.a)
    assert told(model) == [("a", "symmetric")]


def test_one_layer_called_again_and_again_is_told_once():
    def forward(self, x):
        z = torch.zeros_like(x)
        for _ in range(5):
            z = torch.tanh(self.a(z) + x)
        return self.b(z)

    model: Any = Own(forward, a=linear(gain=50.0), b=linear())
    assert [word for _, word in told(model)].count("saturated") == 1


def test_behind_a_fault_a_small_last_layer_is_not_blamed():
    model: Any = nn.Sequential(linear(), nn.Tanh(), linear(), nn.Tanh(), linear(64, 4, gain=0.01))
    assert told(model) == []
    model[2].weight.data.mul_(1e-3)
    assert told(model) == [("2", "vanishes")]


def test_what_is_added_to_learned_numbers_is_a_branch():
    def reads(self, x):
        latents = self.latents.expand(len(x), -1)
        return self.c(latents + self.b(1e-3 * self.a(x)))

    model: Any = Own(reads, a=linear(), b=linear(), c=linear())
    model.latents = nn.Parameter(torch.randn(64))
    assert told(model) == []


def test_dropout_brings_no_signal_past_zeros():
    model: Any = nn.Sequential(linear(), nn.ReLU(), linear(bias=0.1), nn.Dropout(), linear())
    zero(model[2])
    nn.init.constant_(model[2].bias, 0.1)
    assert told(model)[0][0] == "2"


def test_a_branch_that_ends_in_zeros_and_a_bias_is_no_collapse():
    model: Any = nn.Sequential(linear(), Block(), Block(), linear())
    for block in (model[1], model[2]):
        nn.init.uniform_(block.b.bias, -0.1, 0.1)
    assert told(model) == []


def gate_then_stack(self, x):
    h = self.b(self.a(x) * torch.sigmoid(self.gate(x)))
    for name in ("one", "two", "three"):
        h = F.relu(getattr(self, name)(h))
    return self.o(h)


def gated_stack() -> Any:
    layers = {name: linear(gain=2**0.5) for name in ("one", "two", "three")}
    gate = linear(gain=0.005, bias=1.0)
    return Own(gate_then_stack, a=linear(), gate=gate, b=linear(), o=linear(), **layers)


@pytest.mark.parametrize("backward", [True, False])
def test_a_gate_that_is_the_same_for_all_hides_nothing_behind_it(backward):
    model = gated_stack()
    report = hw.audit(model, X, backward=backward)
    assert report.ok
    assert ("gate", "collapsed") in [(f.layer, f.verdict) for f in report.findings]
    model.two.weight.data.mul_(1000)
    report = hw.audit(model, X, backward=backward)
    assert ("two", "explodes") in [(f.layer, f.verdict) for f in report.failures]


def test_a_bias_that_drowns_the_stream_is_a_failure():
    def residual(self, x):
        h = self.i(x)
        for k in range(4):
            h = h + getattr(self, f"b{k}")(F.relu(getattr(self, f"a{k}")(h)))
        return self.o(h)

    layers = {f"{side}{k}": linear(gain=0.5) for side in "ab" for k in range(4)}
    model: Any = Own(residual, i=linear(), o=linear(), **layers)
    assert told(model) == []
    nn.init.constant_(model.b0.bias, -30.0)
    assert "b0" in [name for name, _ in told(model)]


def test_a_dead_gate_behind_a_norm_is_a_failure():
    def glu(self, x):
        h = F.rms_norm(self.i(x), (64,))
        return self.o(x + self.w(F.silu(self.g(h)) * self.v(h)))

    model: Any = Own(glu, **{name: linear() for name in "igvwo"})
    assert told(model) == []
    nn.init.constant_(model.g.bias, -30.0)
    assert "g" in [name for name, _ in told(model)]


class Observed(nn.Module):
    """Hands on what it gets, and takes notes in an object that nobody restores."""

    def __init__(self, notes: list[Any]) -> None:
        super().__init__()
        self.notes = types.SimpleNamespace(seen=notes)

    def forward(self, x: Tensor) -> Tensor:
        self.notes.seen.append(float(x.detach().abs().max()))
        return x


def test_nobody_is_asked_about_numbers_that_were_not_there():
    notes, shapes = [], []
    model = nn.Sequential(linear(), Observed(notes), nn.Tanh(), linear(), nn.Tanh(), linear())
    model[2].register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    hw.audit(model, X)
    assert max(notes) < 100
    assert shapes == [(64, 64)]


def softly(scores):
    return torch.sigmoid(scores - math.log(1024)) @ torch.ones(1024, 64)


def local(scores):
    near = torch.ones(64, 64).triu(-1).tril(1).bool()
    return F.relu(scores[:, :64].masked_fill(~near, -math.inf))


def hats(scores):
    return F.relu(1 - (scores[..., None] - torch.linspace(-3, 3, 25)).abs() / 0.25).flatten(1)


def sparsely(scores):
    return F.relu(scores - scores.topk(5).values[:, -1:].detach())


@pytest.mark.parametrize("function", [softly, local, hats, sparsely])
def test_what_is_mostly_zero_by_design_is_neither_dead_nor_saturated(function):
    wide = 1024 if function is softly else 64
    made = function(torch.zeros(64, wide)).shape[1]
    model = Own(lambda s, x: s.o(function(s.a(x))), a=linear(64, wide), o=linear(made, 10))
    words = {word for _, word in told(model)}
    assert not words & {"dead units", "saturated"}


def test_the_hinge_of_a_loss_is_not_dead():
    def forward(self, x):
        z = self.a(x)
        unlike = z.T @ z / len(z) - torch.eye(64)
        return self.b(z).square().mean() + F.relu(unlike - 50.0).sum() + F.relu(z.mean() - 5.0)

    assert told(Own(forward, a=linear(), b=linear())) == []


def test_positions_first_are_not_what_the_inputs_became():
    def forward(self, tokens):
        positions = self.pe(torch.arange(16).expand(len(tokens), 16))
        return positions, self.o(self.te(tokens) + positions)

    model = Own(forward, pe=nn.Embedding(16, 8), te=nn.Embedding(50, 8), o=linear(8, 8))
    assert told(model, torch.randint(0, 50, (32, 16))) == []


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_of_a_sum_in_an_activation_the_large_part_is_named(wrong):
    def forward(self, x):
        return self.o(torch.tanh(self.a(x) + self.b(x)))

    model: Any = Own(forward, a=linear(), b=linear(), o=linear())
    assert told(model) == []
    getattr(model, wrong).weight.data.mul_(100)
    assert (wrong, "saturated") in told(model)


def test_a_cell_that_explodes_is_told_once():
    def cell(self, x):
        h = torch.zeros_like(x)
        for _ in range(4):
            h = F.relu(self.x(x) + self.h(h))
        return h

    model: Any = Own(cell, x=linear(), h=linear(gain=0.5))
    model.x.weight.data.mul_(100)
    assert told(model).count(("x", "explodes")) == 1
    assert not [name for name, word in told(model) if "#" in name and word == "explodes"]


def masked(h):
    return h * (h.abs().sum(-1, keepdim=True) > 0).to(h)


def halved(h):
    return F.pad(h[:, :63] * h[:, 63:], (0, 1))


@pytest.mark.parametrize("function", [masked, halved])
def test_a_product_with_fewer_numbers_is_no_norm(function):
    model: Any = Own(
        lambda s, x: s.d(s.c(function(s.b(s.a(x))))), **{name: linear() for name in "abcd"}
    )
    model.b.weight.data.mul_(100)
    assert ("b", "explodes") in told(model)


def test_a_norm_beside_the_way_out_excuses_no_stream():
    def forward(self, x):
        h = self.e(x)
        return self.o(h + self.b(F.layer_norm(h, (64,))))

    model: Any = Own(forward, e=linear(), b=linear(gain=0.1), o=linear())
    assert told(model) == []
    model.e.weight.data.mul_(100)
    assert ("e", "explodes") in told(model)


def jagged(h):
    rows = torch.nested.as_nested_tensor([*h], layout=torch.jagged)
    return rows.relu().to_padded_tensor(0.0)


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h.to_sparse().relu().to_dense(),
        lambda h: (h.to_sparse() + h.to_sparse()).to_dense(),
        lambda h: (
            torch.nested.as_nested_tensor([*h], layout=torch.jagged).relu().to_padded_tensor(0.0)
        ),
        lambda h: h.to(torch.float8_e4m3fn).to(h.dtype),
    ],
    ids=["sparse", "sum", "jagged", "float8"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_torch_cannot_sum_up_is_passed_over(between):
    model = Own(lambda s, x: s.o(between(s.a(x))), a=linear(), o=linear())
    assert hw.audit(model, X, backward=False).ok


def test_a_row_that_torch_cannot_sum_up_says_so():
    model = nn.Sequential(linear(), Own(lambda s, x: x.to_sparse()), Own(lambda s, x: x.to_dense()))
    assert "nothing to measure" in hw.measure(model, X)["1"].note
