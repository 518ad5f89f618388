"""Norms over the batch: each channel has one size, whatever weights it was drawn with."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from handwave.inverses import inverse as inverse_of
from handwave.moments import Moments
from handwave.norms import (
    ROUNDING,
    Scale,
    by_batch,
    check_channels,
    normalized,
)
from handwave.pairs import beside
from handwave.signals import Backward, NoTheoryError, Signal
from handwave.units import Units
from handwave.wandering import Wander, one_input

# How well it is known what a settled size had varied by, relative: lengths before and after a
# mean is taken out differ, and those of positions at an edge differ more.
_SETTLED_ERROR, _EDGE_ERROR = 0.1, 0.3


def batch_norm(layer: Any, signal: Signal) -> tuple[Signal, Backward]:
    """Normalize each channel over the batch (training mode), or by what was kept of others."""
    check_channels(layer, layer.num_features, signal)
    if not by_batch(layer):
        return _by_buffers(layer, signal)
    if signal.shape is None or not signal.wander.known:
        reason = ": pass a tensor" if signal.wander.known else ""
        raise NoTheoryError(f"no theory of how far inputs differ{reason}")
    centred, rest = _centred(signal.summed_along(1))
    var = float(signal.second.mean()) * rest
    # Channels differ in their variance.
    unlike = replace(centred, noise=signal.units.wander.noise).of_one_unit
    inverse, luck = inverse_of(var, layer.eps, unlike, _rank(signal))
    # Each channel has its own mean, from which positions at an edge are further away.
    square = centred.same.mean(0) if signal.second.numel() > 1 else None
    scale = Scale(var, layer.eps, 1 / signal.wander.share, inverse, unlike, square=square)
    # Where the mean that is taken out wanders, var does so less: as channels drawn one by one.
    drawn = one_input().plus(luck[0] / layer.num_features).cumulants
    cumulants = min(signal.wander.cumulants, drawn, key=lambda known: known[1])
    centred = replace(centred, cumulants=cumulants).plus(luck[1] / layer.num_features)
    after, back = normalized(layer, signal, centred, scale)
    return replace(after, units=_of_one_size(signal, after, rest)), back


def _rank(signal: Signal) -> float | None:
    """Return of how many squares a channel's variance is the sum; None behind an activation.

    These are no more than there are points around their mean, and no more than weights.
    """
    if signal.base is not None:
        return None
    weights = 2 * signal.units.phases / max(signal.units.known, ROUNDING)
    return min(1 / signal.wander.share - 1, weights)


def _of_one_size(signal: Signal, after: Signal, rest: float) -> Units:
    """Give every unit one size over the batch; rest is what the mean left of the second moment."""
    seen, groups = after.wander, 1.0
    # As the units saw it when they were drawn, if all met the same weights.
    if signal.base is None and signal.function and signal.units.phases == 1:
        seen = replace(_centred(signal.units.wander)[0], cumulants=seen.cumulants)
        groups = signal.units.groups
    settled = seen.of_one_unit
    edges = float(signal.wander.far.mean(0).var(correction=0)) / rest**2 if rest else 0.0
    unsure = _SETTLED_ERROR * settled + _EDGE_ERROR * edges
    units = replace(after.units, wander=seen, known=settled, settled=settled, unsure=unsure)
    return replace(units, groups=groups)


def _centred(wander: Wander) -> tuple[Wander, float]:
    """Take the mean over all points out of each; return the share that is left as well."""
    shared = wander.mean(lambda likeness: likeness, power=1.0)
    rest = max(1 - shared, 0.0)
    if rest < ROUNDING:  # all inputs are the same one
        return one_input(), 0.0
    # What a position has in common with all others; at an edge that is less.
    own = wander.far.mean(0)
    own = own + (shared - own.mean())
    # A point s times as long as others at its place is so in what it shares with them.
    longer = (wander.same / wander.same.mean(0).clamp_min(1e-9)).clamp_min(0).sqrt()
    same = wander.same - 2 * longer * own + shared
    same = same / (float(same.mean()) or 1.0)
    lengths = shared**2 * float(longer.var(0, correction=0).mean())
    far, within = (
        _centred_twice(part, own, lengths) / rest for part in (wander.far, wander.within)
    )
    aligned = (wander.aligned - 2 * own + shared) / rest
    others = beside(own.expand(len(wander.near), *own.shape))
    near = (wander.near - own - others + shared) / rest
    return replace(wander, same=same, far=far, aligned=aligned, near=near, within=within), rest


def _centred_twice(far: Tensor, own: Tensor, lengths: float) -> Tensor:
    """Take out what both points of a pair have in common with all.

    Args:
        far: likeness of pairs.
        own: what each position has in common with all; of a pair, one position is known.
        lengths: variance of that over the points at one position, of which none is known.
    """
    left = far - own
    known = float(own.var(correction=0)) + 2 * lengths
    kept = max(1 - known / (float(left.square().mean()) or 1.0), 0.0)
    return left * math.sqrt(kept)


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
