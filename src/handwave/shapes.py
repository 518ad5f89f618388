"""What shape a layer hands on, without running it: also one of which nothing else is known."""

import copy

import torch
from torch import Tensor, nn

from handwave.norms import NORMS
from handwave.running import of_a_library
from handwave.sums import is_sum
from handwave.twins import twin

Shape = tuple[int, ...]


def shape_behind(layer: nn.Module, shape: Shape | None) -> Shape | None:
    """Return the shape of a layer's output for inputs of one shape; None where nobody knows."""
    if shape is None or not as_written(layer):
        return None
    if isinstance(layer, NORMS):
        return shape
    if is_sum(layer):
        weight, bias = (_empty(getattr(layer, name)) for name in ("weight", "bias"))
        assert weight is not None
        made = twin(layer, weight, bias)
    elif any(True for _ in (*layer.parameters(), *layer.buffers(), *layer.children())):
        return None
    else:
        made = copy.copy(layer)
    try:
        output = made.forward(torch.empty(shape, device="meta"))
    except (RuntimeError, TypeError, ValueError):  # it wants another shape, values, or more tensors
        return None
    return tuple(output.shape) if isinstance(output, Tensor) else None


def as_written(layer: nn.Module) -> bool:
    """Tell a layer that does what its author wrote: a library's own forward, and no hooks."""
    return of_a_library(layer) and not (layer._forward_hooks or layer._forward_pre_hooks)


def _empty(parameter: Tensor | None) -> Tensor | None:
    """Return a tensor without values of a parameter's shape."""
    return None if parameter is None else torch.empty(parameter.shape, device="meta")
