"""What shape a layer hands on, without running it: also one of which nothing else is known."""

import copy

import torch
from torch import Tensor, nn

from handwave.norms import NORMS
from handwave.running import own_class
from handwave.sums import is_sum
from handwave.twins import twin

Shape = tuple[int, ...]


def shape_behind(layer: nn.Module, shape: Shape | None) -> Shape | None:
    """Return the shape of a layer's output for inputs of one shape; None where nobody knows."""
    if shape is None or isinstance(layer, NORMS):
        return shape
    if is_sum(layer):
        weight, bias = (_empty(getattr(layer, name)) for name in ("weight", "bias"))
        assert weight is not None
        made = twin(layer, weight, bias)
    elif _is_plain(layer):
        made = copy.copy(layer)
    else:
        return None
    try:
        output = made.forward(torch.empty(shape, device="meta"))
    except (RuntimeError, TypeError, ValueError):  # it wants another shape, values, or more tensors
        return None
    return tuple(output.shape) if isinstance(output, Tensor) else None


def _is_plain(layer: nn.Module) -> bool:
    """Tell torch's own layers that have nothing but options: what others do, nobody knows."""
    own = own_class(layer).forward.__module__.startswith("torch.nn.")
    return own and not any(True for _ in (*layer.parameters(), *layer.buffers(), *layer.children()))


def _empty(parameter: Tensor | None) -> Tensor | None:
    """Return a tensor without values of a parameter's shape."""
    return None if parameter is None else torch.empty(parameter.shape, device="meta")
