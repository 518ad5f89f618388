"""Pooling: the averages of windows of positions, or the largest values in them."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from handwave.averages import NORMAL, WEIGHTS, Averages, common, slopes_of
from handwave.largest import largest
from handwave.pools import AVERAGES, Pool
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Backward, NoTheoryError, Signal, number, of_input, same, shaping
from handwave.wandering import one_input
from handwave.windowed import Windowed

_MAXIMA = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
POOLINGS = (*AVERAGES, *_MAXIMA)

# What the second moment of an average may be off by, relative, and still be told.
_LOOSE = 0.2


def pool(layer: Any, signal: Signal) -> tuple[Signal, Backward]:
    """Take the average, or the largest, of each window of positions, unit by unit.

    Raises:
        NoTheoryError: what enters is no function of Gaussian units, or too little is known of it.
    """
    if getattr(layer, "return_indices", False):
        raise NoTheoryError("no theory: it returns indices as well")
    if signal.sample is not None:
        return of_input(layer.forward(signal.sample)), lambda gradient: None
    averages = isinstance(layer, AVERAGES)
    try:
        windows = _windows(layer if averages else _average_of(layer), signal)
    except RuntimeError as error:  # an average over three axes is refused more than the largest
        layer.forward(torch.empty(signal.shape or (), device="meta"))
        raise NoTheoryError("no theory for windows larger than the map") from error
    if windows.single:
        return signal, lambda gradient: gradient
    shape = (*(signal.shape or ())[: -len(windows.sizes)], *windows.total.shape)
    # Nothing is left of nothing, nor where windows leave out whatever is something.
    if not float(windows.of(signal.second.expand(windows.sizes)[None]).sum()):
        return _nothing(signal, shape), lambda gradient: None
    signal = signal.as_one
    if signal.function is None:
        raise NoTheoryError("no theory: what enters is not Gaussian")
    alike = Windowed(windows, signal.wander)
    if (loose := alike.loose) > _LOOSE:
        raise NoTheoryError("no theory of how alike neighbours are behind other pooling")
    if averages:
        after = _averaged(alike, signal, signal.function)
        after = replace(after, wander=after.wander.plus(loose**2))
    else:
        after = largest(windows, signal, signal.function, layer)
    after = replace(after, shape=shape)
    if windows.overlap:  # gradients of neighbours may be anything from alike to independent
        return after, lambda gradient: None
    power = 2 if averages else 1
    return after, lambda gradient: windows.transposed(gradient, power)


def _nothing(signal: Signal, shape: tuple[int, ...]) -> Signal:
    """Return what is 0 everywhere."""
    zero, units = number(0.0), replace(signal.units, wander=one_input())
    after = replace(signal.pooled(shape), mean=zero, second=zero, common=0.0)
    return replace(after, function=None, wander=one_input(), units=units)


def _windows(layer: Any, signal: Signal) -> Pool:
    """Find what a layer averages over."""
    axes, shape = 1 + _kind(layer, AVERAGES) % 3, signal.shape
    if shape is None or not signal.wander.known:
        raise NoTheoryError("no theory of how alike positions are: pass a tensor")
    signal.check_units(-axes - 1, -axes - 1)
    return Pool(layer, shape[-axes:], math.prod(shape[: -axes - 1]))


def _average_of(layer: Any) -> nn.Module:
    """Return the layer that averages over the windows of one that takes the largest."""
    place = _kind(layer, _MAXIMA)
    kind: Any = AVERAGES[place]
    if place >= 3:
        return kind(layer.output_size)
    several = isinstance(layer.dilation, tuple | list)
    if set(layer.dilation if several else (layer.dilation,)) != {1}:
        raise NoTheoryError("no theory for windows with holes")
    sizes = (layer.kernel_size, layer.stride, layer.padding)
    return kind(*sizes, ceil_mode=layer.ceil_mode, count_include_pad=False)


def _kind(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    return next(place for place, kind in enumerate(kinds) if isinstance(layer, kind))


def _averaged(alike: Windowed, signal: Signal, function: Elementwise) -> Signal:
    """Follow y = Σ a_p·f(z_p): E[y²] = Σ a_p·a_q·E[f(z_p)·f(z_q)], over all pairs of positions."""
    windows = alike.pool
    if alike.left <= windows.least:
        raise NoTheoryError("no theory: positions of a window cancel each other")
    maps = (part.expand(windows.sizes)[None] for part in (signal.mean, signal.second))
    mean, square = (windows.of(part)[0] for part in maps)
    # Of a position with itself, as it is there; of two of them, as they are on average.
    same_place = windows.alone * windows.of(signal.wander.same).mean(0)
    beside = alike.own.mean(0) - same_place
    second = windows.alone * square + signal.moments.second_moment * beside
    if not float(second.mean()) > 0:
        raise NoTheoryError("no theory: positions of a window cancel each other")
    size, wander = windows.total.square(), alike.averaged()
    after = replace(signal, mean=windows.total * mean, second=size * second, wander=wander)
    averages = Averages.of(windows, signal.base or signal)
    made = _followed(windows, after, averages, function)
    kept = same if function is same else None
    return replace(made, common=common(signal, after), function=kept)


def _followed(windows: Pool, after: Signal, averages: Averages, function: Elementwise) -> Signal:
    """Follow how far the second moment of the averages stands off."""
    base, left, size = averages.base, averages.left, float(windows.total.square().mean())
    law, each, alone = base.moments, shaping(function, base), float(windows.alone.mean())

    def second(factor: float, moved: float) -> float:
        series = Shaping.of(function, law.mean + moved * law.std, law.std * math.sqrt(factor))
        made = replace(each, values=series.values, second=series.second)
        return Windowed(windows, base.units.wander.mapped(made.likeness)).left * series.second

    two = number(max(left - alone, 0.0) / max(1 - alone, 1e-9))  # different positions
    turned = size * left * each.rising(two) / after.moments.second_moment
    bent = size * base.units.wander.mean(each.bent, power=1.0)
    series = averages.given(function, law.std * math.sqrt(1 - left) * NORMAL, WEIGHTS)
    return averages.followed(after, series, slopes_of(second, turned), size, bent)
