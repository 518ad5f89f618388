"""Models as people write them: what an audit must run on, and what it must not take for a fault."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import handwave as hw


def linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    hw.variance_scaling_(layer)
    nn.init.zeros_(layer.bias)
    return layer


class Plain(nn.Module):
    """Two healthy layers; heirs do something beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(64, 64), linear(64, 64)

    def forward(self, x: Any) -> Any:
        return self.b(torch.tanh(self.a(x)))


class TwoLosses(Plain):
    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        return y, y.abs().mean() + 0.1 * y.square().mean()


class LossPerSample(Plain):
    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        return y, (y - x).square().sum(1) + 0.5 * y.square().sum(1)


class MovingAverage(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(64))

    def forward(self, x: Any) -> Any:
        y = self.a(x)
        with torch.no_grad():
            center: Any = self.center
            center.mul_(0.9).add_(0.01 * y.mean(0))
        return self.b(torch.tanh(y))


class Masked(Plain):
    def forward(self, x: Any) -> Any:
        scores = self.a(x) @ x.mT / 8
        mask = torch.full(scores.shape[-2:], -1e9).triu(1).expand_as(scores)
        return self.b((scores + mask).softmax(-1) @ x)


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(linear(64, 10) for _ in range(16))

    def forward(self, x: Any) -> Any:
        out = torch.zeros(len(x), 10)
        for each in self.each:
            out = out + each(x) / 16
        return out


class Asserts(nn.Module):
    def forward(self, x: Any) -> Any:
        assert x.dim() == 3, "expected (batch, tokens, width)"
        return x.mean(1)


class Keeps(nn.Module):
    """Keeps what it computed, with a graph behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64) / 8)
        self.held: dict[str, list[Any]] = {}

    def forward(self, x: Any) -> Any:
        self.held["last"] = [y := x @ self.weight]
        return y


class MaskedConv(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(4, 8, 3, padding=1)
        self.register_buffer("mask", torch.ones_like(self.weight).tril())

    def forward(self, x: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        mask: Any = self.mask
        self.weight.data *= mask
        return super().forward(x)


class PartialConv(nn.Conv2d):
    def forward(self, x: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x), torch.ones_like(x[:, :1])


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.randn(6, 64))

    def forward(self, x: Any) -> Any:
        x += self.pos
        return x


class Force(nn.Module):
    """Gradients of each sample by torch.func."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(linear(64, 32), nn.Tanh(), linear(32, 1))
        self.last = linear(64, 4)

    def forward(self, x: Any) -> Any:
        slope = torch.func.vmap(torch.func.grad(lambda z: self.inner(z).sum()))(x)
        return self.last(x + slope)


FLAT = (64, 64)
MODELS = {
    "two losses": (TwoLosses, FLAT),
    "a loss per sample": (LossPerSample, FLAT),
    "a moving average": (MovingAverage, FLAT),
    "a mask of the scores' shape": (Masked, (8, 10, 64)),
    "an average of layers": (Ensemble, FLAT),
    "a layer that asserts": (
        lambda: nn.Sequential(linear(64, 64), Asserts(), linear(64, 4)),
        (16, 5, 64),
    ),
    "a layer that keeps its output": (lambda: nn.Sequential(Keeps(), linear(64, 4)), FLAT),
    "a convolution that masks": (lambda: nn.Sequential(MaskedConv()), (8, 4, 6, 6)),
    "a convolution of two outputs": (lambda: PartialConv(4, 8, 3, padding=1), (8, 4, 6, 6)),
    "a layer that writes in its input": (
        lambda: nn.Sequential(linear(64, 64), InPlace(), linear(64, 64)),
        (16, 6, 64),
    ),
    "torch.func": (Force, FLAT),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_runs_and_nothing_is_wrong(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make(), torch.randn(shape)
    model(x.clone())  # what it keeps is there
    assert hw.audit(model, x).failures == ()
    hw.predict(model, x)
    seen = {row.name: row.signal.second_moment for row in hw.measure(model, x) if row.shape}
    audited = hw.audit(model, x).measured
    # Whoever looks does not change what the model computes.
    for row in audited:
        if row.name in seen:
            assert row.signal.second_moment == pytest.approx(seen[row.name], rel=1e-5)
    hw.repair_(model, x)


def test_what_is_inside_of_a_transform_is_not_measured_and_says_so():
    torch.manual_seed(0)
    notes = {row.name: row.note for row in hw.measure(Force(), torch.randn(FLAT))}
    assert notes["inner.0"] == "inside a transform of torch.func: nothing to measure"


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.norm(self.conv(x)))


def test_a_stem_of_zeros_is_no_end_of_a_branch():
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    net = nn.Sequential(
        stem, Block(16), Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(16, 10)
    )
    x = torch.randn(8, 3, 10, 10)
    assert hw.audit(net, x).ok
    nn.init.zeros_(stem.weight)
    assert [(f.layer, f.cause) for f in hw.audit(net, x).failures] == [("0", "all zeros")]


class Gated(nn.Module):
    """Scale and shift by a condition, zeros at first, as in adaLN-zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = linear(64, 64), linear(64, 64)
        self.gate = nn.Linear(64, 128)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Any) -> Any:
        scale, shift = self.gate(x)[:, None].chunk(2, -1)
        tokens = self.first(x)[:, None].expand(-1, 3, -1)
        return self.last(tokens * (1 + scale) + shift)


class Sine(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.sin(30 * x)


def siren() -> nn.Module:
    """Sitzmann et al. 2020: weights are small, as the sine is of thirty times what they make."""
    layers: list[nn.Module] = []
    for fan_in in (1, 256, 256, 256):
        layer = nn.Linear(fan_in, 256)
        bound = 1.0 if fan_in == 1 else math.sqrt(6 / fan_in) / 30
        nn.init.uniform_(layer.weight, -bound, bound)
        layers += [layer, Sine()]
    last = nn.Linear(256, 1)
    nn.init.uniform_(last.weight, -math.sqrt(6 / 256) / 30, math.sqrt(6 / 256) / 30)
    return nn.Sequential(*layers, last)


class TwoHeads(nn.Module):
    """A policy, small at first, and a value that the policy's gradient does not come through."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(linear(64, 64), nn.Tanh(), linear(64, 64), nn.Tanh())
        self.policy, self.value = linear(64, 4), linear(64, 1)
        nn.init.orthogonal_(self.policy.weight, 0.001)

    def forward(self, x: Any) -> Any:
        h = self.trunk(x)
        return self.policy(h), self.value(h)


@pytest.mark.parametrize(("make", "inputs"), [(Gated, 64), (siren, 1), (TwoHeads, 64)])
def test_what_its_authors_meant_is_no_failure(make, inputs):
    torch.manual_seed(0)
    assert hw.audit(make(), torch.rand(64, inputs) * 2 - 1).failures == ()


def untouched() -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def causes(model: nn.Module, x: torch.Tensor) -> dict[str, str]:
    return {finding.layer: finding.cause for finding in hw.audit(model, x).findings}


def test_torchs_own_layers_hide_no_other_cause():
    torch.manual_seed(0)
    pixels, noise = 255 * torch.rand(64, 1, 28, 28), torch.randn(64, 1, 28, 28)
    assert causes(untouched(), pixels) == {"1": "non-zero-mean input", "3": "default init"}
    assert causes(untouched(), noise) == {"1": "default init", "3": "default init"}
    net = untouched()
    nn.init.normal_(net[3].bias, std=5)
    assert causes(net, noise) == {"1": "default init", "3": "bias noise"}


@pytest.mark.parametrize(("factor", "word"), [(100, "explodes"), (0.01, "vanishes")])
def test_a_first_layer_is_compared_with_what_enters_it(factor, word):
    torch.manual_seed(0)
    net: Any = hw.mlp(128, 6, nn.ReLU)
    x = torch.randn(64, 128)
    assert hw.audit(net, x).findings == ()
    with torch.no_grad():
        net[0].weight.mul_(factor)
    report = hw.audit(net, x)
    assert [(f.layer, f.verdict) for f in report.findings] == [("0", word)]
    assert not report.ok


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_a_relu_is_named_only_where_one_is(activation):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), activation(), nn.Linear(64, 64))
    said = {f.layer: f.sentence for f in hw.audit(net, torch.randn(64, 64)).findings}
    assert ("ReLU" in said["2"]) == (activation is nn.ReLU)
    assert "ReLU" not in said["0"]


def test_a_gradient_is_told_by_rows_that_stand_in_the_table():
    torch.manual_seed(0)
    parts = [part for _ in range(20) for part in (nn.Linear(64, 64), nn.Sigmoid())]
    report = hw.audit(nn.Sequential(*parts, nn.Linear(64, 10)), torch.randn(32, 64))
    found = report.failures[-1]
    words = found.sentence.split()
    low, ratio, high = words[6], float(words[8]), words[words.index("at", 9) + 1].rstrip(";")
    sizes = {row.name: row.grad.rms for row in report.measured if row.grad}
    assert ratio == pytest.approx(sizes[low] / sizes[high], rel=1e-2)


class Fused(nn.Module):
    """Look at the input twice, once through layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(linear(64, 64), nn.ReLU(), linear(64, 64), nn.ReLU())
        self.head = linear(128, 10)

    def forward(self, x: Any) -> Any:
        return self.head(torch.cat([self.deep(x), x], -1))


def test_zeros_that_no_gradient_reaches_are_a_failure():
    torch.manual_seed(0)
    net: Any = Fused()
    nn.init.zeros_(net.deep[2].weight)  # a ReLU of zeros lets nothing back
    found = [(f.layer, f.cause) for f in hw.audit(net, torch.randn(32, 64)).failures]
    assert found == [("deep.2", "all zeros")]


class Added(nn.Module):
    def forward(self, both: Any) -> Any:
        return both[0] + both[1]


class Stream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(), linear(64, 64)) for _ in range(20))
        self.add, self.head = Added(), linear(64, 10)
        for block in self.blocks:
            nn.init.normal_(block[1].weight, std=math.sqrt(4 / 64))  # pyright: ignore

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = self.add([x, block(x)])
        return self.head(x)


def test_what_goes_through_a_list_is_followed():
    torch.manual_seed(0)
    assert "explodes" in {f.verdict for f in hw.audit(Stream(), torch.randn(32, 64)).failures}


def test_a_mean_is_no_cause_of_a_size():
    torch.manual_seed(0)
    net: Any = nn.Sequential(linear(64, 64), nn.ReLU(), linear(64, 10))
    with torch.no_grad():
        net[0].weight.mul_(100)
    told = {f.verdict: f.cause for f in hw.audit(net, torch.rand(32, 64)).findings}
    assert told["explodes"] == ""
    assert told["off target"] == "non-zero-mean input"


def test_one_image_of_many_points_is_enough_for_a_siren():
    for seed in range(4):
        torch.manual_seed(seed)
        assert hw.audit(siren(), torch.rand(1, 200, 1) * 2 - 1).failures == ()


class Freed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.held = linear(8, 8), torch.randn(1000)
        self.held.untyped_storage().resize_(0)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


def test_memory_that_was_given_back_is_not_copied():
    assert hw.measure(Freed(), torch.randn(4, 8))["layer"].signal.count == 32
