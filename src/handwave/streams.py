"""Follow where each layer's output goes: into which layers, and what is done to it in between."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from handwave.functions import PRODUCTS, QUOTIENTS, Applied, AppliedNorm, evens, function
from handwave.moments import Moments
from handwave.nested import tensors
from handwave.running import has_numbers
from handwave.saturation import MASK, dead, stuck
from handwave.totals import quick_moments

_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class Step:
    """Hold what was done between layers, as far as it matters to sizes: a sum, or a function.

    Args:
        node: its number among layers and steps.
        sources: the nodes that its operands came from.
        signal: moments of what it made, averaged over every entry.
        units: entries of one input's.
        parts: of a sum of two outputs of the same shape, the nodes that each came from.
        function: an activation or a norm that was called as a function.
        zeros: of an activation, the share of its numbers that are 0 for all inputs.
        at_the_ends: the share of what stands at an end of its range.
    """

    node: int
    sources: frozenset[int]
    signal: Moments
    units: float
    parts: tuple[frozenset[int], frozenset[int]] | None = None
    function: nn.Module | None = None
    zeros: float = 0.0
    at_the_ends: float = 0.0


class Streams(TorchFunctionMode):
    """Watch every operation between layers while a model runs.

    A node is one call of a layer, or one step. What an operation makes comes from the nodes that
    its operands came from; what comes from no node came from outside, or from who knows where.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, Step] = {}  # by node, in order
        self.nodes = 0
        # By tensor; of one that came from outside, and is what it was there, no nodes.
        self._sources: Any = WeakIdKeyDictionary()

    def entered(self, inputs: Iterable[Tensor]) -> None:
        """Take down what comes from outside."""
        for given in inputs:
            self._sources[given] = frozenset()

    def born(self, outputs: Iterable[Tensor]) -> int:
        """Number a layer's call, and let its outputs come from it."""
        node, self.nodes = self.nodes, self.nodes + 1
        for output in outputs:
            self._sources[output] = frozenset([node])
        return node

    def sources(self, tensors: Iterable[Tensor]) -> frozenset[int]:
        """Return the nodes that tensors came from."""
        found = [self._sources.get(tensor, frozenset()) for tensor in tensors]
        return frozenset().union(*found)

    def known(self, tensors: Iterable[Tensor]) -> bool:
        """Tell whether all floating tensors came from nodes or from outside."""
        return all(tensor in self._sources for tensor in tensors if tensor.is_floating_point())

    def normed(self, tensor: Tensor) -> bool:
        """Tell what a norm made that was called as a function, and nothing else has changed."""
        sources = self._sources.get(tensor)
        found = [self.steps.get(node) for node in sources or ()]
        return bool(found) and all(s and isinstance(s.function, AppliedNorm) for s in found)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note where its result came from."""
        kwargs = kwargs or {}
        operands = list(tensors((args, kwargs)))
        before = [self._sources.get(operand) for operand in operands]
        result = func(*args, **kwargs)
        if not any(before):
            if frozenset() in before and not any(map(_is_learned, operands)):
                self.entered(tensors(result))
            return result
        name = getattr(func, "__name__", "")
        if name.endswith("_like") or name.startswith("new_"):
            return result  # noise, or a constant
        if name.endswith("_as"):
            before = before[:1]  # of the others only the shape, or the dtype
        if name in _ADDITIONS and _adds(operands, before):
            one, other = (each or frozenset() for each in before)
            self._step(result, one | other, parts=(one, other))
            return result
        called = function(func, args, kwargs, operands)
        if name in PRODUCTS and len(before) == 2:
            self._gate(*before)
        both = name in PRODUCTS | QUOTIENTS and len(before) == 2 and before[0] == before[1]
        if both and evens(result, operands):
            called = AppliedNorm()
        sources = frozenset().union(*filter(None, before))
        if called and isinstance(result, Tensor) and result.numel() and has_numbers(result):
            self._step(result, sources, function=called, **_blocked(called, operands[0], result))
            return result
        own = before if name == "broadcast_tensors" else itertools.repeat(sources)
        for made, each in zip(tensors(result), own, strict=False):
            if each is not None:
                self._sources[made] = each
        return result

    def _gate(self, one: frozenset[int] | None, other: frozenset[int] | None) -> None:
        """Know an activation that its own input is multiplied by: a gradient comes past it."""
        for gate, beside in ((one, other), (other, one)):
            step = self.steps.get(next(iter(gate))) if gate and len(gate) == 1 else None
            if step and step.sources == beside:
                self.steps[step.node] = replace(step, zeros=0.0, at_the_ends=0.0)

    def _step(self, result: Tensor, sources: frozenset[int], **what: Any) -> None:
        signal, units = quick_moments(result.detach(), 1e-4), math.prod(result.shape[1:])
        node = self.born([result])
        self.steps[node] = Step(node, sources, signal, units, **what)


def _blocked(called: nn.Module, given: Tensor, result: Tensor) -> dict[str, float]:
    """Say of an activation through how much of it no gradient comes back."""
    if not isinstance(called, Applied):
        return {}
    given, made = given.detach(), result.detach()
    return {"zeros": dead(given, made), "at_the_ends": stuck(called, made)}


def _is_learned(operand: Tensor) -> bool:
    return isinstance(operand, nn.Parameter) or operand.requires_grad


def _adds(operands: list[Tensor], before: list[frozenset[int] | None]) -> bool:
    """Tell two outputs that are added from a bias, noise or a mask that is, or from two losses."""
    pairs = zip(before, operands, strict=False)
    return (
        len(operands) == 2
        and all(nodes is not None or _is_learned(operand) for nodes, operand in pairs)
        and operands[0].shape == operands[1].shape
        and operands[0].dim() > 0
        and all(operand.numel() and has_numbers(operand) for operand in operands)
        and not any(map(_is_mask, operands))
    )


def _is_mask(operand: Tensor) -> bool:
    """Tell what is added to scores: nothing, or a number far below all of them."""
    least = float(operand.detach().min())
    return least <= MASK and bool(((operand == 0) | (operand == least)).all())
