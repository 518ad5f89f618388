"""Follow where each layer's output goes: into which layers, and into which sums."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from handwave.moments import Moments
from handwave.nested import tensors
from handwave.running import has_numbers
from handwave.totals import quick_moments

_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}

# Underscores left out, torch's functions are named as its modules: F.leaky_relu, x.relu_(). A ReLU
# may also be written x.clamp(min=0).
_ACTIVATIONS = {name.lower() for name in nn.modules.activation.__all__}
_ACTIVATIONS |= {"clamp", "clampmin", "clip"}


_MASK = -1e3  # and below: what takes a score out of a softmax


@dataclass(frozen=True)
class Sum:
    """Hold one addition of two outputs of the same shape.

    Args:
        node: its number among layers and sums.
        parts: for each of the two, the nodes that it came from.
        signal: moments of the sum, averaged over every entry.
        units: entries of one input's sum.
    """

    node: int
    parts: tuple[frozenset[int], frozenset[int]]
    signal: Moments
    units: float


class Applied(nn.Module):
    """Be an activation that was called as a function, with the options that it was given."""

    def __init__(self, func: Any, options: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().__init__()
        self.func, self.options, self.named = func, options, named

    def forward(self, x: Tensor) -> Tensor:
        """Call it again; x and what it returns are of any one shape."""
        return self.func(x, *self.options, **self.named)


class Streams(TorchFunctionMode):
    """Watch every operation between layers while a model runs.

    A node is one call of a layer or one sum. What an operation makes comes from the nodes that
    its operands came from; what came from no node came from outside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[Sum] = []
        self.nodes = 0
        self._sources: Any = WeakIdKeyDictionary()
        self._applied: Any = WeakIdKeyDictionary()

    def born(self, outputs: Iterable[Tensor]) -> int:
        """Number a layer's call, and let its outputs come from it."""
        node, self.nodes = self.nodes, self.nodes + 1
        for output in outputs:
            self._came(output, frozenset([node]))
        return node

    def applied(self, tensor: Tensor) -> Applied | None:
        """Return the activation that was called as a function since the last node, if any was."""
        return self._applied.get(tensor)

    def sources(self, tensors: Iterable[Tensor]) -> frozenset[int]:
        """Return the nodes that tensors came from."""
        found = [self._sources.get(tensor, frozenset()) for tensor in tensors]
        return frozenset().union(*found)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note where its result came from."""
        kwargs = kwargs or {}
        operands = list(tensors((args, kwargs)))
        before = [self.sources([operand]) for operand in operands]
        result = func(*args, **kwargs)
        if not any(before):
            return result
        name = getattr(func, "__name__", "")
        if name in _ADDITIONS and _alike(operands) and not any(map(_is_mask, operands)):
            self._add(before, result)
            return result
        applied = None
        if all(operand is operands[0] for operand in operands):  # x.view_as(x) has two
            applied = self.applied(operands[0])
            if name.replace("_", "") in _ACTIVATIONS:
                named = {key: value for key, value in kwargs.items() if value is not operands[0]}
                applied = Applied(func, args[1:], named)
        for made in tensors(result):
            self._came(made, frozenset().union(*before), applied)
        return result

    def _came(self, made: Tensor, sources: frozenset[int], applied: Applied | None = None) -> None:
        """Note the nodes that a tensor came from; one that was written in came from others."""
        self._sources[made], self._applied[made] = sources, applied

    def _add(self, before: list[frozenset[int]], result: Tensor) -> None:
        signal = quick_moments(result.detach(), 1e-4)
        node, self.nodes = self.nodes, self.nodes + 1
        units = math.prod(result.shape[1:])
        self.sums.append(Sum(node, (before[0], before[1]), signal, units))
        self._came(result, frozenset([node]))


def _alike(operands: list[Tensor]) -> bool:
    """Tell two outputs that are added from a bias or a constant that is, or from two losses."""
    return (
        len(operands) == 2
        and operands[0].shape == operands[1].shape
        and operands[0].dim() > 0
        and all(operand.numel() and has_numbers(operand) for operand in operands)
    )


def _is_mask(operand: Tensor) -> bool:
    """Tell what is added to scores: nothing, or a number far below all of them."""
    least = float(operand.detach().min())
    return least <= _MASK and bool(((operand == 0) | (operand == least)).all())
