"""What is called as a function between layers: where sizes begin anew, and where they are held."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import handwave as hw
import networks as nets

X = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


def linear(inputs: int = 64, outputs: int = 64, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs))
    nn.init.zeros_(layer.bias)
    return layer


class Two(nn.Module):
    """A function between two layers, of gains as given."""

    def __init__(self, between: Any, first: float = 1.0, second: float = 1.0, wide: int = 64):
        super().__init__()
        self.between = between
        self.a, self.b = linear(gain=first), linear(wide, gain=second)
        self.c = linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.between(self.a(x))))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def over_its_std(h: Tensor) -> Tensor:
    return (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True)


def by_its_size(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)


NORMS = {
    "layer_norm": lambda h: F.layer_norm(h, (64,)),
    "rms_norm": lambda h: F.rms_norm(h, (64,)),
    "group_norm": lambda h: F.group_norm(h, 2),
    "batch_norm": lambda h: F.batch_norm(h, None, None, training=True),
    "normalize": lambda h: 8 * F.normalize(h, dim=-1),
    "divided": over_its_std,
    "multiplied": by_its_size,
}
BOUNDED = {"sin": torch.sin, "cos": torch.cos, "module": Sine()}


def told(report: hw.Report) -> list[tuple[str, str]]:
    return [(finding.layer, finding.verdict) for finding in report.failures]


def make(*args: Any, **kwargs: Any) -> Two:
    torch.manual_seed(0)
    return Two(*args, **kwargs)


@pytest.mark.parametrize("name", [*NORMS, *BOUNDED])
def test_behind_it_a_size_in_front_is_forgotten(name):
    assert told(hw.audit(make((NORMS | BOUNDED)[name], first=30.0), X)) == []


def test_what_two_bounded_functions_make_together_is_held_as_well():
    def features(h):
        return torch.cat([torch.sin(h), torch.cos(h)], dim=-1)

    assert told(hw.audit(make(features, first=30.0, wide=128), X)) == []


def test_where_nothing_begins_anew_what_shrinks_is_found():
    def shrinks(h):
        return h / 30

    assert told(hw.audit(make(shrinks), X)) == [("b", "vanishes")]


@pytest.mark.parametrize("name", BOUNDED)
def test_a_small_layer_behind_a_bounded_function_vanishes(name):
    assert ("b", "vanishes") in told(hw.audit(make(BOUNDED[name], 30.0, 0.01), X))


@pytest.mark.parametrize("name", NORMS)
def test_a_large_layer_behind_a_norm_is_a_failure(name):
    assert told(hw.audit(make(NORMS[name], second=100.0), X)) == [("b", "explodes")]


@pytest.mark.parametrize("between", [nn.LayerNorm(64), nn.RMSNorm(64)])
def test_so_it_is_behind_the_module(between):
    assert told(hw.audit(make(between, second=100.0), X)) == [("b", "explodes")]


def test_a_head_that_undoes_a_small_scale_behind_a_norm_does_not_explode():
    def as_in_t5(h):
        return F.rms_norm(h, (64,)) / 64

    assert told(hw.audit(make(as_in_t5, second=64.0), X)) == []


def test_a_chain_of_tanh_vanishes_though_each_is_bounded():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(linear(gain=0.5) for _ in range(20))

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return x

    torch.manual_seed(0)
    assert told(hw.audit(Deep(), X))[0][1] == "vanishes"


def test_what_a_layer_calls_for_itself_is_no_step():
    flow = nets.flow_of(nn.Sequential(linear(), nn.ReLU(), nn.LayerNorm(64), linear()), X)
    assert [node.row.name for node in flow if node.row] == ["0", "1", "2", "3"]
    assert all(node.row for node in flow)


class Bare(nn.Module):
    """Its first layer is a parameter alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(64, 64) / 8)
        self.b, self.c = linear(), linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.relu(x @ self.first) + 1)))


class Scripted(nn.Module):
    """What is scripted does not show its operations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = linear(), linear(), linear(64, 10)
        self.moved = torch.jit.script(moved)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(self.moved(self.a(x)))))


def moved(x: Tensor) -> Tensor:
    return torch.relu(x) + 1.0


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
@pytest.mark.parametrize("model", [Bare, Scripted])
def test_a_mean_that_arose_inside_is_not_the_inputs(model):
    torch.manual_seed(0)
    assert "non-zero-mean input" not in {f.cause for f in hw.audit(model(), X).findings}


def test_a_mean_that_only_changed_its_shape_and_size_is_the_inputs():
    class Scaled(Two):
        def forward(self, x):
            return super().forward((x * 255).reshape(-1, 64))

    torch.manual_seed(0)
    report = hw.audit(Scaled(torch.tanh), X + 3)
    assert ("a", "non-zero-mean input") in {(f.layer, f.cause) for f in report.findings}


class Adapted(nn.Module):
    """A layer with a product of two small ones beside it, either of which may begin at zero."""

    def __init__(self, *zeros: str) -> None:
        super().__init__()
        self.base, self.down, self.up = linear(), linear(64, 4), linear(4, 64)
        self.head = linear(64, 10)
        for name in zeros:
            nn.init.zeros_(getattr(self, name).weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base(x) + self.up(self.down(x)))


@pytest.mark.parametrize(
    ("zeros", "failures"), [(["up"], []), (["down"], []), (["down", "up"], ["down"])]
)
def test_one_of_two_zeros_in_a_row_learns_and_both_do_not(zeros, failures):
    torch.manual_seed(0)
    assert [f.layer for f in hw.audit(Adapted(*zeros), X).failures] == failures


def test_a_last_bias_of_the_targets_mean_is_a_remark():
    model: Any = nn.Sequential(linear(), nn.Tanh(), linear(64, 1))
    nn.init.constant_(model[2].bias, 100.0)
    report = hw.audit(model, X)
    assert report.ok
    assert [(f.layer, f.verdict, f.cause) for f in report.findings] == [
        ("2", "collapsed", "bias noise")
    ]


def test_a_small_layer_beside_others_is_found():
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(linear(64 + 32 * k, 32) for k in range(4))
            self.head = linear(64 + 32 * 4, 10)

        def forward(self, x):
            for layer in self.layers:
                x = torch.cat([x, layer(x)], dim=1)
            return self.head(x)

    torch.manual_seed(0)
    model: Any = Dense()
    assert hw.audit(model, X).ok
    nn.init.normal_(model.layers[2].weight, std=1e-4)
    assert told(hw.audit(model, X)) == [("layers.2", "vanishes")]
