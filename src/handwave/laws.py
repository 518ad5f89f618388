"""What one layer makes of a signal that is known by its moments: a law for every kind."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from handwave.activating import activation, without_hooks
from handwave.activations import elementwise
from handwave.batch_norms import batch_norm
from handwave.norms import BATCH_NORMS, group_norm, layer_norm, rms_norm
from handwave.pooling import POOLINGS, pool
from handwave.quadrature import Elementwise
from handwave.running import own_class
from handwave.signals import Backward, NoTheoryError, Signal, number, of_input
from handwave.sums import CONVOLUTIONS, convolution, embedding, linear
from handwave.weights import is_conv1d

Law = Callable[[Any, Signal], tuple[Signal, Backward]]


def apply_law(layer: nn.Module, signal: Signal) -> tuple[Signal, Backward]:
    """Say what a layer makes of a signal, and of the gradient that comes back.

    Raises:
        NoTheoryError: the layer has no law, or not for this signal.
        ValueError: the layer would refuse an input of the signal's shape.
    """
    if not all(parameter.numel() for parameter in layer.parameters()):
        raise NoTheoryError("no theory: a weight without entries")
    law, sample = _law_of(layer), signal.sample
    if sample is not None and not sample.is_floating_point() and law not in _FOR_INTEGERS:
        raise NoTheoryError("no theory for integers" if law else "no theory")
    if law is not None:
        return law(layer, signal)
    plain = not any(True for _ in (*layer.parameters(), *layer.buffers()))
    if plain or isinstance(layer, nn.PReLU):
        return activation(layer, signal)
    raise NoTheoryError("no theory")


def _law_of(layer: nn.Module) -> Law | None:
    """Find the law of a layer's class; a subclass with a forward of its own has none."""
    own = own_class(layer)
    if is_conv1d(layer):
        return linear
    return next(
        (_LAWS[kind] for kind in own.__mro__ if kind in _LAWS and own.forward is kind.forward), None
    )


def slope_of(layer: nn.Module) -> Elementwise | None:
    """Return the derivative of a layer that is a function of each entry, None of any other."""
    if _law_of(layer) or any(True for _ in (*layer.parameters(), *layer.buffers())):
        return None
    try:
        return elementwise(without_hooks(layer), derivative=True)[0]
    except (TypeError, ValueError):
        return None


def unchanged(layer: nn.Module, signal: Signal) -> tuple[Signal, Backward]:
    """Hand everything on."""
    return signal, lambda gradient: gradient


def dropout(layer: nn.Dropout, signal: Signal) -> tuple[Signal, Backward]:
    """Keep each entry with probability 1 − p, divided by it: the second moment grows by it."""
    kept = 1 - layer.p
    if not layer.training or not layer.p:
        return unchanged(layer, signal)
    if not kept:
        nothing = replace(signal, mean=number(0.0), second=number(0.0), common=0.0)
        nothing = replace(nothing, function=None, sample=None, largest=None)
        return nothing, lambda gradient: 0 * gradient
    wander = signal.wander
    # Two points have masks of their own; a point with itself has one.
    thinned = replace(wander.mapped(lambda likeness: likeness * kept), same=wander.same)
    after = replace(
        signal,
        second=signal.second / kept,
        wander=thinned.plus((1 / kept - 1) * _concentration(layer, signal)),
        function=None,
        sample=None,
        largest=None,
    )
    return after, lambda gradient: gradient / kept


# E[y⁴]/E[y²]² of a signal behind a ReLU.
_KURTOSIS = 6.0


def _concentration(layer: nn.Module, signal: Signal) -> float:
    """Return Σ(y²)²/(Σy²)² over what is masked together: entries, or channels of one input."""
    channels = own_class(layer) is not nn.Dropout
    if signal.sample is not None:
        squares = signal.sample.double().square()
        axes = tuple(range(-int(own_class(layer).__name__[7:-1]), 0)) if channels else ()
        parts = squares.sum(axes) if axes else squares
        return float(parts.square().sum()) / (float(parts.sum()) ** 2 or 1.0)
    together = signal.wander.far[0].numel() if channels else 1
    return _KURTOSIS * min(signal.wander.share * together, 1.0) / signal.units.count


def reshape(layer: nn.Flatten, signal: Signal) -> tuple[Signal, Backward]:
    """Flatten: the same numbers in another shape; positions become units."""
    if signal.shape is None:
        return signal, _pooled
    shape = tuple(layer.forward(torch.empty(signal.shape, device="meta")).shape)
    if signal.sample is not None:
        return of_input(layer.forward(signal.sample)), _pooled
    dims = len(signal.shape)
    start, end = (place % dims for place in (layer.start_dim, layer.end_dim))
    axis = signal.unit_axis
    axis = dims - 1 if axis is None else axis
    if end < axis or start == end:
        return replace(signal, shape=shape, largest=None), lambda gradient: gradient
    if start > axis or end < dims - 1:
        raise NoTheoryError("no theory: it merges positions, and leaves the units apart")
    positions = math.prod(signal.shape[start:]) // signal.shape[axis]
    wander = signal.units.wander.flat(positions)
    units = replace(signal.units, wander=wander, covariance=None, around=None)
    after = replace(signal.pooled(shape), wander=signal.wander.flat(positions), units=units)
    return after, _pooled


def _pooled(gradient: Tensor) -> Tensor:
    return gradient.mean()


_LAWS: dict[type[nn.Module], Law] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.Identity: unchanged,
    nn.Flatten: reshape,
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), dropout),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    **dict.fromkeys(POOLINGS, pool),
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.RMSNorm: rms_norm,
    nn.Sequential: unchanged,  # a row only without layers
}

_FOR_INTEGERS = (embedding, reshape, unchanged)
