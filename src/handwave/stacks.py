"""Many layers, one after another."""

import math
from collections.abc import Callable
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from handwave.activations import gain
from handwave.weights import fans


class Residual(nn.Module):
    """Add a branch to what enters it: x + branch(x).

    Args:
        branch: any module whose output has its input's shape.

    Examples:
        >>> Residual(nn.Linear(3, 3))(torch.zeros(2, 3)).shape
        torch.Size([2, 3])

    References:
        Lesson 11, "layers".
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Return x + branch(x), in the shape of x."""
        return x + self.branch(x)


def mlp(  # noqa: PLR0913, PLR0917 - the six are what the lessons vary
    width: int,
    depth: int,
    activation: Callable[[], nn.Module] | None = None,
    std: float | None = None,
    bias: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Stack `depth` linear layers of one width, each followed by the activation.

    Weights are drawn from N(0, std²); without std from N(0, gain²/fan_in), which keeps the
    second moment of a linear or ReLU stack, on average over draws. (For other activations 1 is
    a fixed point of the second moment, not always a stable one.) Biases start at zero.

    Args:
        width: numbers that enter and leave every layer.
        depth: how many linear layers.
        activation: a class or a factory, such as `nn.ReLU`, called once a layer.
        std: standard deviation of the weights, used as it is.
        bias: give the layers biases.
        generator: what the weights are drawn from; by default torch's own. Nothing else is
            drawn.

    Returns:
        A Sequential of Linear layers and activations: "0", "1", …

    Raises:
        TypeError: width or depth is no whole number; the activation is a module already, or
            makes none.
        ValueError: width or depth below 1; std negative or not finite.

    Examples:
        >>> mlp(784, depth=2, activation=nn.ReLU)
        Sequential(
          (0): Linear(in_features=784, out_features=784, bias=False)
          (1): ReLU()
          (2): Linear(in_features=784, out_features=784, bias=False)
          (3): ReLU()
        )

    References:
        Lessons 1, "explosion", and 6, "fix".
    """
    _check_whole("width", width, 784)
    _check_whole("depth", depth, 3)
    if width < 1 or depth < 1:
        raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
    if std is not None and not (std >= 0 and math.isfinite(std)):
        raise ValueError(f"std is a standard deviation, at least 0, got {std}")
    layers: list[nn.Module] = []
    device = torch.get_default_device()
    for _ in range(depth):
        # Without its own draw: with a generator given, torch's stays where it was.
        linear = nn.Linear(width, width, bias=bias, device="meta").to_empty(device=device)
        after = [] if activation is None else [_made(activation)]
        if std is None:
            std = (gain(after[0]) if after else 1.0) / math.sqrt(fans(linear).fan_in)
        with torch.no_grad():
            linear.weight.normal_(0.0, std, generator=generator)
            if bias:
                linear.bias.zero_()
        layers += [linear, *after]
    return nn.Sequential(*layers)


def _check_whole(name: str, number: Any, such_as: int) -> None:
    """Refuse what counts nothing: text, and a floating number even if it is whole."""
    if not isinstance(number, SupportsIndex):
        message = f"{name} must be a whole number, got {number!r}; pass an int, such as {such_as}"
        raise TypeError(message)


def _made(activation: Callable[[], nn.Module]) -> nn.Module:
    """Call the factory, refusing one module for all layers: they would share its state."""
    if isinstance(activation, nn.Module):
        name = type(activation).__name__
        raise TypeError(f"activation must be a class or a factory: pass nn.{name}, not an instance")
    if not callable(activation):
        message = f"activation must be a class or a factory such as nn.ReLU, got {activation!r}"
        raise TypeError(message)
    try:
        made = activation()
    except TypeError as error:
        error.add_note("activation is called without arguments, once a layer, and makes a module")
        raise
    if not isinstance(made, nn.Module):
        raise TypeError(f"activation() must make a module, got {type(made).__name__}")
    return made
