"""What one layer makes of a signal that is known by its moments: a law for every kind."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from handwave.activations import elementwise
from handwave.batch_norms import batch_norm
from handwave.moments import Moments
from handwave.norms import BATCH_NORMS, group_norm, layer_norm, rms_norm
from handwave.panels import of_each, variances
from handwave.pooling import POOLINGS, pool
from handwave.positions import shaped
from handwave.quadrature import Elementwise
from handwave.running import own_class
from handwave.settling import left, of_settled
from handwave.signals import Backward, Feedback, NoTheoryError, Signal, number, of_input, shaping
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


def activation(layer: nn.Module, signal: Signal) -> tuple[Signal, Backward]:
    """Put a function on Gaussian units, by quadrature; on the model's own input, as it stands.

    On the largest of windows, as if it came before these were taken: a rising function does not
    change which one is the largest.
    """
    if signal.largest:
        return _on_largest(layer, *signal.largest)
    try:
        bare = _without_hooks(layer)
        value, slope = elementwise(bare)[0], elementwise(bare, derivative=True)[0]
        if signal.sample is not None:
            return _on_sample(value, slope, signal)
        if signal.function is None:
            raise NoTheoryError("no theory: what enters is not Gaussian")
        return _on_units(value, slope, signal)
    except NoTheoryError:
        raise
    except (TypeError, ValueError) as error:
        # What torch says of a probe that it cannot take tells nothing about the signal.
        reason = "" if error.__cause__ else f": {error}"
        raise NoTheoryError(f"no theory{reason}") from error


def _on_largest(layer: nn.Module, pooling: nn.Module, before: Signal) -> tuple[Signal, Backward]:
    """Put a function on all positions first, and take the largest of each window then."""
    after = activation(layer, before)[0]
    largest, feedback = pool(pooling, after)[0], after.feedback
    told, inner = before.feedback, before.function
    slope = elementwise(_without_hooks(layer), derivative=True)[0]
    assert told.expected
    assert inner
    own = told.expected(lambda z: slope(inner(z)).square())
    # What both functions let through together is not what each does.
    told.again *= feedback.slopes / (own * told.slopes) if own and told.slopes else 0.0
    return largest, lambda gradient: gradient * (own * feedback.again)


def slope_of(layer: nn.Module) -> Elementwise | None:
    """Return the derivative of a layer that is a function of each entry, None of any other."""
    if _law_of(layer) or any(True for _ in (*layer.parameters(), *layer.buffers())):
        return None
    try:
        return elementwise(_without_hooks(layer), derivative=True)[0]
    except (TypeError, ValueError):
        return None


def _without_hooks(layer: nn.Module) -> nn.Module:
    """Copy a layer, on the surface only; its hooks are for real signals, not for quadrature."""
    bare = copy.copy(layer)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(bare, name, OrderedDict())
    return bare


def _on_units(value: Elementwise, slope: Elementwise, signal: Signal) -> tuple[Signal, Backward]:
    base, inner = signal.base or signal, signal.function or value

    def function(z: Tensor) -> Tensor:
        return value(inner(z))

    mean, second = _by_position(function, base)
    factor = _by_position(lambda z: slope(inner(z)), base)[1]
    if base.units.crossed and signal.base is base:
        signal.feedback.passed = base.units.crossed.passed(lambda z: slope(inner(z)))
    series = shaping(function, base)
    law = base.moments
    rho = (base.common - law.mean**2) / law.var if law.var else 0.0
    wander = base.units.through(series, left(function, law, base.units.of_inputs))
    if base.units.wander.known and law.std and float(second.mean()):
        # Where f grows with z, units of large z had counted most.
        seen = base.units.wander.flattened(base.units.flatter ** min(series.slope**2, 1.0))
        seen = base.units.met(seen, series.mean_share)
        wander = replace(wander, **shaped(seen, series, float(second.mean())))
    if base.units.crossed:
        wander = replace(wander, **base.units.crossed.likeness(function, wander))
    after = replace(
        signal,
        mean=mean,
        second=second,
        common=series.product(max(-1.0, min(rho, 1.0))),
        wander=wander,
        function=function,
        base=base,
        taken=0.0,
        feedback=(feedback := Feedback(slope=lambda z: slope(inner(z)))),
    )
    return after, lambda gradient: gradient * (factor * feedback.steeper * feedback.again)


def _on_sample(value: Elementwise, slope: Elementwise, signal: Signal) -> tuple[Signal, Backward]:
    """Use the input itself: it need not be Gaussian."""
    sample = signal.sample
    assert sample is not None
    factor = Moments.of(slope(sample.double())).second_moment
    return of_input(value(sample.double()).to(sample.dtype)), lambda gradient: gradient * factor


def _by_position(function: Elementwise, base: Signal) -> tuple[Tensor, Tensor]:
    """Return mean and second moment of function(z) at every position."""
    table = torch.stack(torch.broadcast_tensors(base.mean, base.second))  # (2, *map)
    # Rounding alone tells apart what symmetry makes equal.
    rows = table.reshape(2, -1).T.to(torch.float32)
    alike, place = torch.unique(rows, dim=0, return_inverse=True)
    means, seconds = alike.double().T
    units, shape = base.units, table[0].shape
    settled = (1 + units.settled) * (1 + units.of_inputs) - 1
    made = of_each(function, means, seconds, 0.0 if settled else units.unlike)[place]
    mean, second = made.T.reshape(2, *shape)
    if not settled:
        return mean, second
    shift, factor = _of_all_lengths(function, base, settled)
    return mean + shift, second * factor


def _of_all_lengths(function: Elementwise, base: Signal, settled: float) -> tuple[Tensor, Tensor]:
    """Return by how much E[f(z)] moves at every position, and what E[f(z)²] is multiplied by.

    Points have all lengths that they have, and z the law of settled ones.
    """
    law, wander = base.moments, base.units.wander
    var = law.var * wander.same.clamp_min(0)  # (points, *map)
    gaussian = of_settled(function, law.mean, var.mean(0), 0.0)
    made = torch.zeros_like(gaussian)
    for at, part in variances(wander.lengths + wander.cumulants[1]):
        made += part * of_settled(function, law.mean, at * var, settled).mean(1)
    shift, factor = made[0] - gaussian[0], made[1] / gaussian[1]
    return shift, factor.where(gaussian[1] > 0, 1.0)


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
    units = replace(signal.units, wander=wander, covariance=None)
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
