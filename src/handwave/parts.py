"""Take an output apart: what its weight makes in proportion, and its bias."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.modules.conv import _ConvNd

from handwave.running import floating
from handwave.totals import quick_second_moment
from handwave.twins import twin

# What to compute an output in again where its own dtype has lost it.
_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}

# No entry of an output is so many times its root mean square.
_PEAK = 1e3

# Computes a + b·0 anew, in a wider dtype.
Again = Callable[[torch.dtype], Tensor]


@dataclass(frozen=True)
class Squares:
    """Hold E[a²], E[a·b] and E[b²] of an output a + b, with b the bias.

    Averaged over: every entry of the output.
    """

    product: float
    cross: float = 0.0
    bias: float = 0.0

    def at(self, scale: float) -> float:
        """Return E[(s·a + b)²]."""
        return scale * scale * self.product + 2 * scale * self.cross + self.bias

    def scale_to(self, target: float) -> float | None:
        """Solve E[(s·a + b)²] = target for the larger s, if there is one above 0.

        With u = s·√E[a²] and c = E[a·b]/√E[a²], it reads u² + 2cu + E[b²] = target.
        """
        size = math.sqrt(self.product)
        c, rest = self.cross / size, target - self.bias
        if c * c + rest < 0:
            return None
        root = math.sqrt(c * c + rest)
        u = rest / (c + root) if c > 0 else root - c  # without a difference of like numbers
        return u / size if u > 0 else None


class Part:
    """Know an output as s·a + b, with a in proportion to a weight, and write it anew.

    Args:
        output: what came out, free to be written in.
        bias: b, in a shape that can be added to the output; None without one.
        again: computes a anew in a wider dtype, from the same inputs.
        rerun: computes the output anew, for layers that may do more than s·a + b.
    """

    def __init__(
        self,
        output: Tensor,
        bias: Tensor | None,
        again: Again | None = None,
        rerun: Callable[[], Tensor] | None = None,
    ) -> None:
        self.rerun = rerun
        self.output = output.detach()
        self.bias = None if bias is None else bias.detach()
        product = self.output if self.bias is None else self.output - self.bias
        self._take(product)
        wider = _WIDER.get(output.dtype)
        if again and wider and not self._is_exact():
            self._take(again(wider))

    def _take(self, product: Tensor) -> None:
        """Measure a, and how it stands to the bias."""
        self.product = product
        self.squares = Squares(quick_second_moment(product))
        if self.bias is not None:
            wide = product.to(torch.promote_types(product.dtype, torch.float32))
            bias = self.bias.double()
            cross = (wide.sum_to_size(bias.shape).double() * bias).sum() / product.numel()
            self.squares = Squares(self.squares.product, float(cross), float(bias.square().mean()))

    def _is_exact(self) -> bool:
        """See whether a stands in the output with digits enough."""
        known, limits = self.squares, torch.finfo(self.output.dtype)
        if not math.isfinite(known.product) or known.product <= (16 * limits.tiny) ** 2:
            return False
        return limits.eps * math.sqrt(known.bias / known.product) < 1e-4

    def _overflows(self, scale: float, target: float) -> bool:
        """See whether an entry would be beyond the dtype, if the target is anywhere near."""
        largest = torch.finfo(self.output.dtype).max
        if math.sqrt(target) < largest / _PEAK:
            return False
        bias = 0.0 if self.bias is None else float(self.bias.abs().max())
        return float(self.product.abs().max()) * scale + bias > largest

    def write(self, scale: float, target: float) -> str:
        """Write s·a + b in the output; where the layer has to make it itself, see if it does.

        Returns:
            Why the output was left as it is; "" where it is written.
        """
        if self._overflows(scale, target):
            return f"its output would overflow {str(self.output.dtype).removeprefix('torch.')}"
        if self.rerun:
            made = self.rerun()
            if not abs(quick_second_moment(made) / target - 1) <= max(
                1e-4, torch.finfo(made.dtype).eps
            ):
                return "its output does not follow its weight"
            self.output.copy_(made)
        elif self.product is self.output:
            self.output.mul_(scale)
        else:
            scaled = self.product.mul_(scale)
            self.output.copy_(scaled if self.bias is None else scaled.add_(self.bias))
        return ""


def of_layer(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Part:
    """Take apart what a layer with one weight returned."""
    return Part(output, _bias(layer), lambda dtype: _anew(layer, args, kwargs, dtype))


def of_own_forward(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Part:
    """Take apart what a layer returned that may do with its weight what it likes."""

    def rerun() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            return next(floating(layer.forward(*args, **kwargs)))

    return Part(output, _bias(layer), rerun=rerun)


def _bias(layer: nn.Module) -> Tensor | None:
    """Return a layer's bias, in a shape that can be added to its output."""
    attention = isinstance(layer, nn.MultiheadAttention)
    bias = getattr(layer.out_proj if attention else layer, "bias", None)
    if isinstance(layer, _ConvNd) and bias is not None:
        return bias.view(-1, *(1 for _ in layer.kernel_size))
    return bias


def _anew(layer: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> Tensor:
    """Run a layer without its bias in another dtype."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    # Not None, since transformers' Conv1D cannot do without.
    zero = None if bias is None else torch.zeros_like(bias, dtype=dtype)  # pyright: ignore
    return in_dtype(twin(layer, weight.to(dtype), zero), args, kwargs, dtype)  # pyright: ignore


def in_dtype(layer: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
    """Call a layer's own forward, no hooks, with its floating inputs in another dtype."""

    def to(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floating else value

    device = next(layer.parameters()).device.type
    with torch.autocast(device, enabled=False):
        return layer.forward(*map(to, args), **{name: to(v) for name, v in kwargs.items()})


def of_attention(module: nn.MultiheadAttention, args: Any, kwargs: Any, output: Tensor) -> Part:
    """Take apart what attention returned: its last weight is that of a linear layer."""

    def again(dtype: torch.dtype) -> Tensor:
        out, made = module.out_proj, copy.copy(module)
        owned = module._parameters.items()
        made._parameters = {name: p if p is None else p.to(dtype) for name, p in owned}  # pyright: ignore
        zero = None if out.bias is None else torch.zeros_like(out.bias, dtype=dtype)
        made._modules = {"out_proj": twin(out, out.weight.to(dtype), zero)}
        with torch.random.fork_rng(devices=[]):  # dropout draws once more
            return in_dtype(made, args, kwargs, dtype)[0]

    return Part(output, module.out_proj.bias, again)


def of_projection(layer: nn.MultiheadAttention, which: int, x: Tensor) -> tuple[Part, str, slice]:
    """Compute one of the three projections that attention makes of what it gets.

    Returns:
        The part, the name of the weight that holds it, and which of its rows do.
    """
    rows = slice(which * layer.embed_dim, (which + 1) * layer.embed_dim)
    packed = layer.in_proj_weight is not None
    name = "in_proj_weight" if packed else f"{'qkv'[which]}_proj_weight"
    weight = getattr(layer, name)[rows if packed else ...]
    bias = None if layer.in_proj_bias is None else layer.in_proj_bias[rows]

    def again(dtype: torch.dtype) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.to(dtype), weight.to(dtype))

    return Part(linear(x, weight, bias), bias, again), name, rows if packed else slice(None)
