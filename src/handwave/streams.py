"""Follow where each layer's output goes: into which layers, and into which sums."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from handwave.moments import Moments
from handwave.totals import quick_moments

_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note where its result came from."""
        operands = list(_tensors((args, kwargs or {})))
        before = [self.sources([operand]) for operand in operands]
        result = func(*args, **(kwargs or {}))
        if not any(before):
            return result
        if getattr(func, "__name__", "") in _ADDITIONS and _alike(operands):
            self._add(before, result)
            return result
        for made in _tensors(result):
            self._sources[made] = frozenset().union(*before)
        return result

    def _add(self, before: list[frozenset[int]], result: Tensor) -> None:
        signal = quick_moments(result.detach(), 1e-4)
        node, self.nodes = self.nodes, self.nodes + 1
        self.sums.append(Sum(node, (before[0], before[1]), signal, result[:1].numel()))
        self._sources[result] = frozenset([node])


def _alike(operands: list[Tensor]) -> bool:
    """Tell two outputs that are added from a bias or a constant that is."""
    return (
        len(operands) == 2
        and operands[0].shape == operands[1].shape
        and all(operand.is_floating_point() and operand.numel() for operand in operands)
    )


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
