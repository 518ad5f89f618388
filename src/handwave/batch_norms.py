"""Norms over the batch: each channel has one size, whatever weights it was drawn with."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from handwave.centring import centred
from handwave.inverses import Inverse, falling
from handwave.moments import Moments
from handwave.norms import Scale, by_batch, check_channels, normalized
from handwave.signals import Backward, NoTheoryError, Signal
from handwave.units import Units
from handwave.wandering import CLASSES, Wander, one_input

# How well it is known what a settled size had varied by, relative: lengths before and after a
# mean is taken out differ, and those of positions at an edge differ more.
_SETTLED_ERROR, _EDGE_ERROR = 0.1, 0.05


def batch_norm(layer: Any, signal: Signal) -> tuple[Signal, Backward]:
    """Normalize each channel over the batch (training mode), or by what was kept of others."""
    check_channels(layer, layer.num_features, signal)
    if not by_batch(layer):
        return _by_buffers(layer, signal)
    if signal.shape is None or not signal.wander.known:
        reason = ": pass a tensor" if signal.wander.known else ""
        raise NoTheoryError(f"no theory of how far inputs differ{reason}")
    exact = _as_it_is(signal)
    around, rest = centred(signal.summed_along(1))
    around = replace(around, **exact)
    drawn = replace(_as_drawn(signal, around, rest), **exact)
    if signal.sample is None:
        var, sizes = float(signal.second.mean()) * rest, _Sizes.of(signal, drawn)
        inverse = Inverse.of(var, layer.eps, sizes.unlike, sizes.each, layer.num_features)
    else:  # the variances themselves
        each = signal.sample.double().transpose(0, 1).flatten(1).var(1, correction=0)
        var, sizes = float(each.mean()), _Sizes(0.0, None, True, 0.0)
        inverse = Inverse(float((1 / (each + layer.eps)).mean()))
    # Each channel has its own mean, from which positions at an edge are further away.
    square = around.same.mean(0) if signal.second.numel() > 1 else None
    count = 1 / signal.wander.share
    scale = Scale(var, layer.eps, count, inverse.mean, sizes.unlike, sizes.known, square=square)
    # Of how far the sums stand off, the channels as they are drawn here have their own part.
    loose = inverse.with_v * sizes.open + inverse.besides
    before = signal.units.wander if signal.base is None else signal.wander
    wander = replace(around, cumulants=before.cumulants).plus(loose / layer.num_features)
    after, back = normalized(layer, signal, wander.flattened(inverse.flatter), scale)
    units = _of_one_size(signal, drawn, after, rest, sizes)
    return replace(after, units=replace(units, flatter=inverse.flatter)), back


def _as_drawn(signal: Signal, around: Wander, rest: float) -> Wander:
    """Return how alike the points are around their mean, as the units saw it when they were drawn.

    What is noise behind them was none to them, and what dropout takes out of an entry neither; but
    points that met different weights had nothing in common.
    """
    units = signal.units
    if signal.base is None and units.phases == 1 and not signal.largest:
        return centred(units.wander)[0]
    return replace(around, noise=min(units.wander.own_noise / (rest**2 or 1.0), 1.0))


def _as_it_is(signal: Signal) -> dict[str, Any]:
    """Return by class how alike points are around their mean, and their ends, of the very input.

    Where nearly all is the mean's, what is left of likeness is less than pairs tell. Nothing where
    the input is not known.
    """
    around = signal.units.around
    if around is None or signal.base is not None or not signal.function:
        return {}
    exact = around()
    return {name: getattr(exact, name) for name in (*CLASSES, "ends")}


@dataclass(frozen=True)
class _Sizes:
    """Hold how the variances of channels differ.

    Args:
        unlike: their relative variance.
        each: of the squares that a variance is the sum of, how large they are; None where it is
            not known, or does not matter.
        known: whether these are those of the very input.
        open: of the relative variance, what the mean square of the weights does not tell.
        uneven: tr(M⁴)/tr(M²)³ of the points' second moments M; 1 where it is not known.
    """

    unlike: float
    each: Tensor | None
    known: bool
    open: float
    uneven: float = 1.0

    @classmethod
    def of(cls, signal: Signal, drawn: Wander) -> "_Sizes":
        """Read them off the input itself; behind other layers, off how alike points are.

        Args:
            signal: what is normalized.
            drawn: how alike its points are around their mean, as the units were drawn.
        """
        units, plain = signal.units, signal.base is None
        weights = units.products * units.phases
        covariance = units.covariance if plain and signal.function else None
        if covariance is not None:
            each = torch.linalg.eigvalsh(covariance).clamp_min(0)
            parts = each / (each.sum() or 1.0)
            square = float(parts.square().sum())
            unlike, uneven = 2 * square, float((parts**4).sum()) / (square**3 or 1.0)
        else:
            unlike, uneven, each = drawn.of_one_unit, 1.0, None
            if plain and units.settled and signal.function:  # a norm over the batch in front
                unlike = 0.0
            elif plain:  # no more squares than points around their mean, and no more than weights
                each = falling(unlike, min(1 / signal.wander.share - 1, weights))
        told = 2 / weights / unlike if plain and unlike else 0.0
        return cls(unlike, each, covariance is not None, max(1 - told, 0.0), max(uneven, 1.0))


def _of_one_size(signal: Signal, drawn: Wander, after: Signal, rest: float, sizes: _Sizes) -> Units:
    """Give every unit one size over the batch; rest is what the mean left of the second moment."""
    plain = signal.base is None and signal.function and signal.units.phases == 1
    seen, groups = drawn, signal.units.groups if plain else 1.0
    if sizes.known:  # likeness has the mean square that it has over all pairs of the very input
        flat = seen.flattened(sizes.unlike / (seen.of_one_unit or 1.0))
        seen = replace(flat, near=seen.near)  # all neighbours are followed
    seen = replace(seen, cumulants=after.wander.cumulants)
    settled = seen.of_one_unit
    edges = float(signal.wander.far.mean(0).var(correction=0)) / rest**2 if rest else 0.0
    unsure = 0.0 if sizes.known else _SETTLED_ERROR * settled + _EDGE_ERROR * edges
    units = replace(after.units, wander=seen, known=settled, settled=settled, unsure=unsure)
    explained = _explained(signal, seen, rest) if sizes.known else 0.0
    return replace(units, groups=groups, explained=explained, uneven=sizes.uneven)


def _explained(signal: Signal, around: Wander, rest: float) -> float:
    """Return what the means of positions make of the mean of points times their lengths, squared.

    These means follow from the weights' own, and are what is predicted.
    """
    middle = float(signal.mean.mean())
    if not middle or not rest:
        return 0.0
    off = around.same.mean(0).sqrt() * (signal.mean / middle - 1)
    return signal.units.known_mean * float(off.mean()) ** 2 / rest


def _by_buffers(layer: Any, signal: Signal) -> tuple[Signal, Backward]:
    """Divide by what was measured on other batches: an affine map of each channel."""
    with torch.no_grad():
        scale = (layer.running_var.double() + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -layer.running_mean * scale
        shift = shift if layer.bias is None else shift + layer.bias
    slope, offset = Moments.of(scale), Moments.of(shift)
    cross = float((scale * shift).mean())
    mean = slope.mean * signal.mean + offset.mean
    second = slope.second_moment * signal.second + 2 * cross * signal.mean + offset.second_moment
    plain = slope.var <= 1e-12 * slope.second_moment and not offset.second_moment
    # Which channel meets which factor is not asked: of the model's own input, that is assumed.
    wander = signal.wander if plain or signal.sample is None else one_input()
    after = replace(
        signal, mean=mean, second=second, function=_scaled(signal, slope.mean) if plain else None,
        wander=wander,
        common=slope.mean**2 * signal.common + 2 * slope.mean * offset.mean * signal.moments.mean
        + offset.mean**2, sample=None, base=signal.base or signal, largest=None,
    )  # fmt: skip
    return after, lambda gradient: gradient * slope.second_moment


def _scaled(signal: Signal, factor: float) -> Any:
    """Put a factor behind what was put on the units."""
    function = signal.function
    return None if function is None else lambda z: factor * function(z)
