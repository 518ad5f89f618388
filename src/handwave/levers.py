"""What is written to scale a layer's weight, and how it comes back bit for bit."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from handwave.places import Place, place
from handwave.restoring import same_bits
from handwave.weights import fans

# Factors beyond these can leave float32's range, or reach its numbers with few digits.
_LARGE, _SMALL = 2.0**20, 2.0**-20


class Lever:
    """Scale one weight, through the parameters that it consists of.

    Args:
        parameters: what is written.
        block: the part of them that is.
        inverse: the parameters' values for the weight times a factor; by default the
            parameters times that factor.
        copied: copies what is written, to bring it back.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        block: slice | EllipsisType = ...,
        inverse: Callable[[float], Sequence[Tensor]] | None = None,
        copied: Callable[[Tensor], Tensor] = Tensor.clone,
    ) -> None:
        self.parameters = tuple(parameters)
        self.block = block
        self.inverse = inverse
        self.before = tuple(map(copied, self._parts()))

    @property
    def places(self) -> tuple[Place, ...]:
        """Say where in memory it writes."""
        return tuple(map(place, self._parts()))

    @property
    def repeats(self) -> bool:
        """See whether entries share memory, as after `expand`: torch does not write there."""
        parts = list(self._parts())
        steps = [pair for part in parts for pair in zip(part.shape, part.stride(), strict=True)]
        return any(size > 1 and not stride for size, stride in steps)

    def _parts(self) -> Iterator[Tensor]:
        # Looked up anew each time: a model that moved to another device has other memory. With
        # .data, since a model may differentiate in its forward: then the weight written is the
        # right one, and autograd is not to complain; `writing` tells it of what stays.
        whole = self.block is ...
        return (p.data if whole else p.data[self.block] for p in self.parameters)

    def write(self, factor: float) -> bool:
        """Write the weight times the factor; return whether the dtype could hold it."""
        if self.inverse:
            for part, value in zip(self._parts(), self.inverse(factor), strict=True):
                part.copy_(value)
            return True
        return all(
            _written(part, before, factor)
            for part, before in zip(self._parts(), self.before, strict=True)
        )

    def put_back(self) -> None:
        """Write what stood there before."""
        for part, before in zip(self._parts(), self.before, strict=True):
            part.copy_(before)

    def found(self, earlier: Mapping[Tensor, Tensor]) -> bool:
        """See whether `before` is what earlier copies say, where there are copies."""
        copies = [earlier.get(parameter) for parameter in self.parameters]
        return all(
            copy is None or same_bits(before.to(copy.device), copy[self.block])
            for copy, before in zip(copies, self.before, strict=True)
        )

    def stands_at(self, factor: float) -> bool:
        """See whether the parameters are what `write(factor)` made of them, bit for bit."""
        written = self.inverse(factor) if self.inverse else [b * factor for b in self.before]
        return all(
            (part.dtype, part.device) == (value.dtype, value.device) and torch.equal(part, value)
            for part, value in zip(self._parts(), written, strict=True)
        )


def writes(tensor: Tensor) -> int:
    """Return how often autograd saw it written; it does not count in tensors of inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def _written(part: Tensor, before: Tensor, factor: float) -> bool:
    torch.mul(before, factor, out=part)
    if part.element_size() > 2 and _SMALL < factor < _LARGE:
        return True
    # Overflow makes it infinite, underflow eats it up.
    held = torch.linalg.vector_norm(part, dtype=torch.float64)
    asked = factor * torch.linalg.vector_norm(before, dtype=torch.float64)
    # Rounding alone may go one way for all entries.
    error = max(1e-3, torch.finfo(part.dtype).eps)
    return bool((held - asked).abs() <= error * asked)


@contextmanager
def writing(levers: Sequence[Lever]) -> Iterator[None]:
    """Let weights be written, also those made in inference mode, and tell autograd at the end."""
    parameters = [parameter for lever in levers for parameter in lever.parameters]
    with allowed(parameters), torch.no_grad():
        yield
    torch.autograd.graph.increment_version([p for p in parameters if not p.is_inference()])
    torch.clear_autocast_cache()


def allowed(parameters: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Enter inference mode if the parameters were made there: elsewhere they cannot be written."""
    made_there = any(parameter.is_inference() for parameter in parameters)
    return torch.inference_mode(made_there or torch.is_inference_mode_enabled())


def lever_of(layer: nn.Module, copied: Callable[[Tensor], Tensor] = Tensor.clone) -> Lever | str:
    """Find what scales a layer's weight, or say why nothing does."""
    try:
        fans(layer)
    except ValueError:
        # By name, since many models bring a norm of their own.
        norm = any("Norm" in kind.__name__ for kind in type(layer).__mro__)
        return "norms are left alone" if norm else "no single weight"
    if getattr(layer, "max_norm", None) is not None:
        return "max_norm holds its rows"
    if parametrize.is_parametrized(layer, "weight"):
        return _parametrized(layer)
    owned = layer._parameters
    # What an older weight_norm or pruning computes the weight from, in proportion.
    pruned = "weight_mask" in layer._buffers
    for name in ("weight", "weight_g", "weight_orig" if pruned else ""):
        weight = owned.get(name)
        if weight is not None and weight.is_floating_point():
            return Lever([weight], copied=copied)
    return "its weight is computed from others"


def _parametrized(layer: nn.Module) -> Lever | str:
    """Scale through the right inverse, if the weight then follows: a norm of 1 would not."""
    parametrization: Any = layer.parametrizations["weight"]  # pyright: ignore
    originals = list(parametrization._parameters.values())
    with _untouched(layer):
        weight = layer.weight.detach().clone()  # pyright: ignore

    def inverse(factor: float) -> list[Tensor]:
        value = weight * factor
        with _untouched(layer):
            for step in reversed(parametrization):
                value = step.right_inverse(value)
        return [value] if isinstance(value, Tensor) else list(value)

    lever = Lever(originals, inverse=inverse)
    if lever.repeats:
        return lever
    try:
        lever.write(2.0)
        with _untouched(layer):
            follows = torch.allclose(layer.weight, 2 * weight, rtol=1e-3)  # pyright: ignore
    except Exception:  # whatever a right inverse raises that does not like the value
        follows = False
    finally:
        lever.put_back()
    return lever if follows else "its parametrization takes no scale"


@contextmanager
def _untouched(layer: nn.Module) -> Iterator[None]:
    """Look at a computed weight: a spectral norm takes a step, others may draw."""
    buffers = [(buffer, buffer.clone()) for buffer in layer.buffers()]
    with torch.random.fork_rng(devices=[]):
        yield
    for buffer, value in buffers:
        buffer.copy_(value)
