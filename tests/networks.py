"""Networks as a careful author initialises them: what the tests of audits plant faults in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from handwave import Report, gain, variance_scaling_
from handwave.flows import Flow
from handwave.weights import fans


def drawn(layer: Any, scale: float = 1.0, **options: Any) -> Any:
    """Draw a layer's weights, and let its bias begin at zero."""
    variance_scaling_(layer, scale, **options)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def square(activation: type[nn.Module] | None) -> float:
    """The scale that makes up for the activation in front."""
    return 1.0 if activation is None else gain(activation()) ** 2


def stack(widths: list[int], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """An MLP with the gain of its activation behind the first layer, and none behind the last."""
    layers: list[nn.Module] = []
    for place, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [drawn(nn.Linear(a, b), square(activation) if place else 1.0), activation()]
    return nn.Sequential(*layers[:-1])


def relu_mlp(depth: int = 6, width: int = 96) -> tuple[Any, torch.Tensor]:
    return stack([width] * (depth + 1)), torch.randn(64, width)


def tanh_mlp(depth: int = 6, width: int = 96) -> tuple[Any, torch.Tensor]:
    return stack([width] * (depth + 1), nn.Tanh), torch.randn(64, width)


def conv_net(depth: int = 5, width: int = 24) -> tuple[Any, torch.Tensor]:
    """Convolutions with circular padding, so that edges lose nothing."""
    layers: list[nn.Module] = []
    for place in range(depth):
        kind = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular")
        layers += [drawn(kind, 2.0 if place else 1.0), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), torch.randn(16, width, 8, 8)


class Written(nn.Module):
    """Layers, and whatever forward is handed in."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.steps = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Any) -> Any:
        return self.steps(self, x)


def linear(inputs: int, outputs: int, scale: float = 2.0) -> nn.Linear:
    """A layer behind a ReLU, or behind nothing with scale 1."""
    return drawn(nn.Linear(inputs, outputs), scale)


def between(function: Callable[..., Any], behind: Callable[..., Any] | None = None) -> Any:
    """Two layers, a function between them, and perhaps one behind."""

    def forward(self: Any, x: torch.Tensor) -> Any:
        y = self.b(function(self.a(x)))
        return behind(y) if behind else y

    return Written(forward, a=linear(64, 64), b=linear(64, 10))


def told(report: Report) -> list[tuple[str, str]]:
    """Where an audit saw failures, and which."""
    return [(each.layer, each.verdict) for each in report.failures]


class Block(nn.Module):
    """Add a branch in forward, as most people write it."""

    def __init__(self, width: int, norm: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up = drawn(nn.Linear(width, 4 * width))
        self.act = nn.ReLU()
        self.down = drawn(nn.Linear(4 * width, width), 2.0 * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Attention(nn.Module):
    """Attend in forward, with one projection for q, k and v."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = drawn(nn.Linear(width, 3 * width))
        self.out = drawn(nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))


class Encoder(nn.Sequential):
    """A pre-norm encoder of functional residual blocks; its layers are `0.norm`, `1.qkv`, …"""

    def __init__(self, blocks: int = 3, width: int = 48) -> None:
        parts = [part for _ in range(blocks) for part in (Attention(width), Block(width))]
        super().__init__(*parts, nn.LayerNorm(width), drawn(nn.Linear(width, 10)))


def encoder(blocks: int = 3, width: int = 48) -> tuple[Any, torch.Tensor]:
    return Encoder(blocks, width), torch.randn(16, 12, width)


HEALTHY: dict[str, Callable[..., Any]] = {
    "relu": relu_mlp,
    "tanh": tanh_mlp,
    "conv": conv_net,
    "encoder": encoder,
}


def lecun(layer: Any) -> None:
    drawn(layer)


def transposed(layer: Any) -> None:
    """What comes of taking the other fan."""
    drawn(layer, 2.0, mode="fan_out")


def depthwise(layer: Any) -> None:
    """torch's fan_out of a depthwise convolution counts the outputs of all groups."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def torch_fan(layer: Any) -> None:
    """torch's fan_in of a transposed convolution is not that of a transposed convolution."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def twin_units(layer: Any) -> None:
    with torch.no_grad():
        half = len(layer.weight) // 2
        layer.weight[half : 2 * half] = layer.weight[:half]


def off_centre(layer: Any) -> None:
    """As nn.init.uniform_ of [0, a): the mean of the weights is as large as their deviation."""
    fan_in = fans(layer).fan_in
    nn.init.uniform_(layer.weight, 0.0, (6 / fan_in) ** 0.5)


def noisy_bias(layer: Any) -> None:
    nn.init.normal_(layer.bias, 0.0, 2.0)


def unwritten(value: float) -> Any:
    def plant(layer: Any) -> None:
        with torch.no_grad():
            layer.weight.view(-1)[3] = value

    return plant


def leftovers(layer: Any) -> None:
    """Memory as torch.empty may hand it out: zeros, and numbers that were pointers."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight.view(-1)[::7] = 3.1e28
        layer.weight.view(-1)[1::5] = 4.6e-41


def named(report: Any) -> set[tuple[str, str]]:
    """Each cause that a report names, and where."""
    return {(each.layer, each.cause) for each in report.findings if each.cause}


def words(report: Any) -> set[tuple[str, str]]:
    """Each verdict, and where."""
    return {(each.layer, each.verdict) for each in report.findings}


def flow_of(model: nn.Module, inputs: Any) -> Flow:
    """The graph of one run, as an audit sees it."""
    from handwave.judging import _calls, _Witness
    from handwave.measuring import record

    witness = _Witness()
    witness.given(model, inputs, {})
    with witness.streams:
        trace, seen = record(model, inputs, backward=False, look=witness)
    return Flow(_calls(trace, seen), witness.streams.steps.values())
