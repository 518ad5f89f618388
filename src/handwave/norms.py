"""Layers that divide by what they measure: the scale of what came in is gone."""

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from handwave.centring import by_units, of_unit_length
from handwave.inverses import Inverse
from handwave.moments import Moments
from handwave.running import own_class
from handwave.signals import Backward, NoTheoryError, Signal
from handwave.units import Units
from handwave.wandering import ROUNDING, Wander

# How well E[1/var] is known, relative, at least and for each unit of its variance; and what
# float32 leaves of a mean of squares.
_INVERSE_ERROR, _UNLIKE_ERROR = 0.015, 0.15

_SEEN = 1e-4  # of a variance beside eps; below, 1 − eps·E[1/(v + eps)] loses its digits

_MOST_UNLIKE = 0.5  # of what is divided by: its relative variance, for an E[1/var] to speak of

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DIMS = {nn.BatchNorm1d: range(2, 4), nn.BatchNorm2d: range(4, 5), nn.BatchNorm3d: range(5, 6)}
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Scale:
    """Hold what a norm divides by, and what it is taken over.

    Args:
        var: what is divided by the root of, without eps.
        eps: that keeps it from zero.
        count: numbers that it is taken over.
        inverse: E[1/(var + eps)], over inputs and draws.
        unlike: relative variance of var, over channels or inputs; beyond 1/2, E[1/var] of so
            few numbers is large or infinite.
        exact: whether E[1/var] is that of the very input.
        centred: whether their mean is taken out.
        square: what is divided, by position, up to a factor; None where it is as it came.
    """

    var: float
    eps: float
    count: float
    inverse: float
    unlike: float
    exact: bool = False
    centred: bool = True
    square: Tensor | None = None

    @property
    def slope(self) -> float | None:
        """Return what a gradient's square is multiplied by; None where it has no expectation."""
        known = self.unlike <= _MOST_UNLIKE and self.left > 0
        return self.inverse * self.left if known else None

    @property
    def left(self) -> float:
        """Return what is left of the square of a gradient that has nothing to do with the signal.

        The mean and, but for eps, the direction of the signal are taken out of it.
        """
        return 1 - (self.centred + self.along) / self.count

    @property
    def along(self) -> float:
        """Return how much of the signal's direction is taken out: all but for eps."""
        lost = self.eps * self.inverse
        return 1 - lost * lost


def layer_norm(layer: nn.LayerNorm, signal: Signal) -> tuple[Signal, Backward]:
    """Normalize each input, or position, over its own units."""
    tail = checked_tail(layer, signal)
    return _by_units(layer, signal, math.prod(tail), -len(tail))


def group_norm(layer: nn.GroupNorm, signal: Signal) -> tuple[Signal, Backward]:
    """Normalize groups of channels of each input, over its positions as well."""
    check_channels(layer, layer.num_channels, signal)
    count = layer.num_channels // layer.num_groups * math.prod(signal.map)
    return _by_units(layer, signal, count, 1)


def rms_norm(layer: nn.RMSNorm, signal: Signal) -> tuple[Signal, Backward]:
    """Divide each input, or position, by the root of its second moment; the mean stays in."""
    tail = checked_tail(layer, signal)
    wander, var = signal.summed_along(-len(tail)), float(signal.second.mean())
    eps = torch.finfo(torch.float32).eps if layer.eps is None else layer.eps
    count = math.prod(tail)
    unlike = _unlike(signal, wander, count / wander.far[0].numel(), centred=False)
    scale = Scale(var, eps, count, _inverse(wander, var, eps, unlike), unlike, centred=False)
    after, back = normalized(layer, signal, of_unit_length(wander), scale)
    return replace(after, units=replace(after.units, of_inputs=unlike)), back


def affine(layer: Any) -> tuple[Moments, Moments]:
    """Return the moments of a norm's weight and bias, 1 and 0 without them."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    return (
        Moments(1.0, 0.0) if weight is None else Moments.of(weight),
        Moments(0.0, 0.0) if bias is None else Moments.of(bias),
    )


def by_batch(layer: Any) -> bool:
    """Tell whether a batch norm uses the batch's own statistics."""
    return layer.training or layer.running_var is None


def over_batch(layer: nn.Module) -> bool:
    """Tell a norm that measures the batch."""
    return own_class(layer) in BATCH_NORMS and by_batch(layer)


def check_channels(layer: nn.Module, channels: int, signal: Signal) -> None:
    """Refuse a signal that has not so many channels along axis 1."""
    shape, law = signal.shape, own_class(layer)
    if shape is None:
        return
    dims = _DIMS.get(law, range(2, sys.maxsize))
    if len(shape) not in dims or shape[1] != channels:
        raise ValueError(
            f"{law.__name__} is for {channels} channels along axis 1, "
            f"but gets an input of shape {shape}"
        )
    if over_batch(layer) and math.prod(shape) == channels:
        raise ValueError(
            f"{law.__name__} in training mode needs more than one value per channel, "
            f"but gets an input of shape {shape}; call .eval() or pass more inputs"
        )
    signal.check_units(1, 1)


def checked_tail(layer: Any, signal: Signal) -> tuple[int, ...]:
    """Return the sizes that a norm is taken over, which must be the signal's last ones."""
    shape, tail = signal.shape, tuple(layer.normalized_shape)
    if shape is not None and shape[-len(tail) :] != tail:
        name = own_class(layer).__name__
        raise ValueError(f"{name} is for inputs (*, {tail}), but gets one of shape {shape}")
    signal.check_units(-len(tail), -1)
    return tail


def _by_units(layer: Any, signal: Signal, count: float, axis: int) -> tuple[Signal, Backward]:
    """Take each input's mean over its units out, and divide by the root of the variance."""
    wander, second = signal.summed_along(axis), float(signal.second.mean())
    units, common = count / wander.far[0].numel(), signal.common / (second or 1.0)
    around, left = by_units(wander, units, common)
    var, unlike = second * left, _unlike(signal, wander, units)
    inverse = _inverse(wander, var, layer.eps, unlike)
    if signal.sample is not None:  # the variances themselves
        each = signal.sample.double().reshape(-1, int(count)).var(1, correction=0)
        var, inverse = float(each.mean()), float((1 / (each + layer.eps)).mean())
    scale = Scale(var, layer.eps, count, inverse, unlike)
    after, back = normalized(layer, signal, of_unit_length(around), scale)
    return replace(after, units=replace(after.units, of_inputs=unlike, together=units)), back


def _unlike(signal: Signal, wander: Wander, units: float, centred: bool = True) -> float:
    """Return the relative variance of an input's mean square over some of its units, over draws.

    Of U Gaussian units whose positions have the likeness R, around their mean or not, it is in
    proportion to (mean(R²) − mean(R)²/U)/(1 − mean(R)/U)², or mean(R²). What a function made of
    them has a mean, by which two positions are alike and yet vary independently.
    """
    if signal.sample is not None:
        return 0.0
    lengths = signal.units.count / units * wander.drawn_lengths
    if signal.base is not None:
        alike = min(signal.moments.mean**2 / (signal.moments.second_moment or 1.0), 0.99) ** 2
        return lengths * max(wander.of_inputs(torch.square) - alike, 0.0) / (1 - alike)
    mean = wander.of_inputs(torch.clone) / units if centred else 0.0
    square = wander.of_inputs(torch.square) - units * mean * mean
    return lengths * square / max(1 - mean, 0.5) ** 2


def _inverse(wander: Wander, var: float, eps: float, unlike: float) -> float:
    """Return E[1/(v + eps)], v being var on average over inputs and draws."""
    # Of what all inputs have in common, what these units make is in there.
    before = max(wander.cumulants[1] - wander.drawn_lengths + wander.lengths, 0.0)
    mean = Inverse.of(var, eps, unlike + before).mean
    return mean * wander.inverse_square(var, eps) * (var + eps)


def normalized(layer: Any, signal: Signal, wander: Wander, scale: Scale) -> tuple[Signal, Backward]:
    """Divide by √(var + eps), and put weight and bias on."""
    var, eps = max(scale.var, 0.0), scale.eps
    if not var + eps:
        raise NoTheoryError("no theory: it divides zero by zero")
    (weight, bias), mean = affine(layer), signal.moments.mean
    shift = mean if scale.centred else 0.0
    square = signal.second - 2 * shift * signal.mean + shift * shift
    square = square if scale.square is None else scale.square
    # By position, as it came; pooled, E[var/(var + eps)] = 1 − eps·E[1/(var + eps)].
    lost = eps * scale.inverse
    seen = 1 - lost if var > _SEEN * eps else var / (var + eps)
    square = square * (seen / (float(square.mean()) or 1.0))
    kept = weight.mean * (signal.mean - shift) / math.sqrt(var + eps)
    second = weight.second_moment * square + 2 * bias.mean * kept + bias.second_moment
    # What is left of the wandering: that of what eps takes away, and rounding.
    unsure = 0.0 if scale.exact else max(_INVERSE_ERROR, _UNLIKE_ERROR * scale.unlike)
    wander = wander.scaled(lost).plus((unsure * lost) ** 2 + ROUNDING**2)
    # Of Gaussian units, the same for all channels: Gaussian again.
    plain = signal.base is None and not weight.var and not bias.second_moment
    after = replace(
        signal,
        mean=kept + bias.mean,
        second=second,
        common=bias.mean**2 + (0.0 if scale.centred else signal.common / (var + eps)),
        wander=wander,
        units=_units(signal, wander, scale.centred),
        function=signal.function if plain else None,
        base=None,
        sample=None,
        largest=None,
    )
    slope = scale.slope
    if slope is None:
        return after, lambda gradient: None
    after = replace(after, taken=scale.along / scale.count / scale.left)
    return after, lambda gradient: gradient * (weight.second_moment * slope)


def _units(signal: Signal, wander: Wander, centred: bool) -> Units:
    """Keep the units, whose mean square is settled now."""
    # Of plain products, with power 1: a norm over the batch makes their mean 0.
    tilt = wander.mean(torch.clone, power=1.0)
    # Of the units' mean all is known where it is taken out, else what their weights tell of it.
    as_drawn = signal.units.known_mean if signal.base is None else 0.0
    # As the units saw it when they were drawn: what is noise behind them was none to them.
    drawn = signal.units.wander
    seen = wander if signal.base else replace(wander, noise=drawn.noise, own_noise=drawn.own_noise)
    return Units(seen, signal.units.count, seen.of_one_unit, tilt if centred else as_drawn)
