"""Layers that add products up: what their sums are, over draws of the weights."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from handwave.moments import Moments
from handwave.running import own_class
from handwave.signals import Backward, NoTheoryError, Signal, fresh, number
from handwave.units import Units
from handwave.wandering import Wander
from handwave.weights import fans, is_conv1d
from handwave.windows import WIDEST, Windows

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


_MOST_PRODUCTS = 1 << 30  # of an input's numbers, to know all of its covariance


def is_sum(module: nn.Module) -> bool:
    """Tell a layer that sums products with one weight."""
    return isinstance(module, nn.Linear | _ConvNd) or is_conv1d(module)


def expected_square(weight: Moments, squares: Tensor, square_of_sum: Tensor) -> Tensor:
    """Return E[y²], y = Σ w_i·x_i, over all ways to deal out the entries of a weight.

    E[y²] = v·B + (mean² − v/N)·A, with v = var·N/(N − 1), B = Σ x_i² and A = (Σ x_i)²: the N
    entries are dealt without replacement, since their sum and sum of squares are known.

    Args:
        weight: moments of the weight's entries, count N.
        squares: B, of any shape.
        square_of_sum: A, of the same shape.
    """
    var = weight.var * weight.count / (weight.count - 1) if weight.count > 1 else 0.0
    return var * squares + (weight.mean * weight.mean - var / weight.count) * square_of_sum


def bias_moments(layer: nn.Module) -> Moments:
    """Return the moments of a bias, zero without one."""
    bias = getattr(layer, "bias", None)
    return Moments.of(bias) if isinstance(bias, Tensor) else Moments(0.0, 0.0)


def linear(layer: Any, signal: Signal) -> tuple[Signal, Backward]:
    """Sum along the last axis."""
    shape, (fan_in, fan_out) = signal.shape, fans(layer)
    if shape is not None:
        _check(layer, shape, len(shape) >= 1 and shape[-1] == fan_in, int(fan_in))
        shape = (*shape[:-1], int(fan_out))
        signal.check_units(-1, -1)
    wander, sample = signal.summed_along(-1), signal.sample
    signal = signal.pooled(shape)
    after = _draw(
        layer, signal, wander, (number(fan_in), signal.mean * fan_in, signal.second * fan_in)
    )
    covariance = None if sample is None else _covariance(sample.double().reshape(-1, int(fan_in)))
    after = replace(after, units=replace(after.units, covariance=covariance))
    factor = Moments.of(layer.weight).second_moment * fan_out
    return after, lambda gradient: gradient.mean() * factor


def convolution(layer: _ConvNd, signal: Signal) -> tuple[Signal, Backward]:
    """Sum over a window of positions, and over the channels of a group."""
    axes = len(layer.kernel_size)
    shape = signal.shape
    if shape is None:
        raise NoTheoryError("no theory without the input's size: pass a tensor")
    fits = len(shape) in (axes + 1, axes + 2) and shape[-axes - 1] == layer.in_channels
    _check(layer, shape, fits, layer.in_channels)
    signal.check_units(-axes - 1, -axes - 1)
    windows = Windows(layer, shape[-axes:], _phases(layer))
    if not windows.seen:
        raise NoTheoryError("no theory: its windows see nothing but padding")
    channels = layer.in_channels // layer.groups
    parts = (torch.ones((), dtype=torch.float64), *_maps(signal, axes))
    count, mean, second = (channels * windows.of(part.expand(shape[-axes:])) for part in parts)
    before = signal.summed_along(-axes - 1)
    wander = windows.average(before)
    x = None if signal.sample is None else signal.sample.double()
    exact = None if x is None else windows.alike(x, axes)
    if exact:
        places = windows.count.numel()
        if windows.phases == 1 and places > 1:
            beside = (exact.within * places - 1) / (places - 1)
            wander = replace(wander, within=wander.within + (beside - wander.within.mean()))
        wander = _exact(wander, (exact.mean, exact.square))
    elif signal.sample is not None:  # what differs among pairs differs among channels
        varied = before.kept(windows.seen, windows.beside) * float(before.far.var(correction=0))
        of_groups = (1 - 1 / layer.groups) * varied
        noise, own = min(wander.noise + of_groups, 1.0), min(wander.own_noise + of_groups, 1.0)
        wander = replace(wander, noise=noise, own_noise=own)
    shape = (*shape[: -axes - 1], layer.out_channels, *count.shape)
    after = _draw(layer, replace(signal, shape=shape), wander, (count, mean, second))
    if exact and x is not None:
        around = None if exact.covariance is None else partial(windows.around, x, axes)
        known = replace(after.units, covariance=exact.covariance, around=around)
        after = replace(after, units=known)
    factor = Moments.of(layer.weight).second_moment * layer.out_channels / layer.groups
    return after, lambda gradient: factor * windows.transposed(gradient.expand(count.shape))


def _covariance(points: Tensor) -> Tensor | None:
    """Return what has the eigenvalues of the covariance of units; None where that takes long.

    Args:
        points: shape (points, units).
    """
    if points.numel() * min(points.shape) > _MOST_PRODUCTS or min(points.shape) > WIDEST:
        return None
    around = points - points.mean(0)
    return around.mT @ around if len(points) > points.shape[1] else around @ around.mT


def _maps(signal: Signal, axes: int) -> tuple[Tensor, Tensor]:
    """Return E[x] and E[x²] by position; of the model's own input, as its positions have it."""
    if signal.sample is None:
        return signal.mean, signal.second
    x = signal.sample.double().flatten(0, -axes - 1)  # (inputs and channels, *map)
    return x.mean(0), x.square().mean(0)


def embedding(layer: nn.Embedding, signal: Signal) -> tuple[Signal, Backward]:
    """Pick rows: no sum, and as Gaussian as the weight is."""
    weight, ids = Moments.of(layer.weight), signal.sample
    if ids is None or ids.is_floating_point():
        raise NoTheoryError("no theory without integer inputs: pass a tensor of indices")
    if layer.max_norm is not None:
        raise NoTheoryError("no theory for max_norm: rows are cut to it when they are looked up")
    # Two tokens are alike entirely, or only in the weight's mean.
    shared = _ratio(weight.mean * weight.mean, weight.second_moment)
    other = signal.summed_along(-1)
    wander = other.mapped(lambda equal: equal + (1 - equal) * shared)
    known = 2 / layer.num_embeddings
    units = Units(wander, float(layer.embedding_dim), known)
    shape = (*ids.shape, layer.embedding_dim)
    mean, second = number(weight.mean), number(weight.second_moment)
    return fresh(shape, mean, second, weight.mean**2, units), lambda gradient: gradient


def _check(layer: nn.Module, shape: tuple[int, ...], fits: bool, size: int) -> None:
    """Refuse an input that the layer would refuse."""
    if not fits:
        raise ValueError(
            f"{own_class(layer).__name__} sums {size} numbers, but gets an input of shape {shape}"
        )


def _draw(
    layer: Any, signal: Signal, wander: Wander, sums: tuple[Tensor, Tensor, Tensor]
) -> Signal:
    """Draw a layer's units; sums = products behind one of them, Σ E[x] and Σ E[x²]."""
    weight, bias = Moments.of(layer.weight), bias_moments(layer)
    count, total, squares = sums
    # E[(Σx)²]: of count² pairs of inputs, count are squares; the others have E[x_i·x_k] = common.
    alike = _ratio(signal.common, float(signal.second.mean()))
    square_of_sum = squares * (1 + (count - 1) * alike)
    mean = weight.mean * total
    second = expected_square(weight, squares, square_of_sum)
    second = second + 2 * mean * bias.mean + bias.second_moment
    shared = expected_square(weight, 0 * squares, square_of_sum) + 2 * mean * bias.mean
    share = _ratio(bias.second_moment, float(second.mean()))
    fan_in = fans(layer).fan_in
    units = _units(wander, fan_in, float(_width(layer)), share)
    # Of weights that reach over an edge, their mean tells less.
    known_mean = share + (1 - share) * max(alike, 0.0) * float(count.mean()) / fan_in
    units = replace(units, known_mean=known_mean, phases=_phases(layer), products=fan_in)
    units = units.of_groups(getattr(layer, "groups", 1))
    common = float(shared.mean()) + bias.mean**2
    return fresh(signal.shape, mean + bias.mean, second, common, units)


def _units(wander: Wander, fan_in: float, width: float, bias_share: float) -> Units:
    """Draw units of which a share of the second moment is their bias, known and common to all."""
    rest = 1 - bias_share
    mixed = wander.mapped(lambda likeness: rest * likeness + bias_share).scaled(rest)
    mixed = mixed.with_noise(rest * rest, rest * rest)
    return Units(mixed, width, 2 * rest * rest / fan_in + 2 * bias_share * bias_share)


def _width(layer: Any) -> int:
    return layer.out_channels if isinstance(layer, _ConvNd) else int(fans(layer).fan_out)


def _phases(layer: Any) -> float:
    """Count the sets of weights of one unit: a strided transposed convolution takes turns."""
    return layer.weight.numel() / _width(layer) / fans(layer).fan_in


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _exact(wander: Wander, alike: tuple[float, float]) -> Wander:
    """Give the likeness of different points the mean, and the mean square, that are known."""
    if wander.share >= 1:
        return wander
    name = "far" if wander.inputs < 1 else "within"  # of a single input, all pairs are
    part, share = getattr(wander, name), wander.shares.get(name, 0.0)
    if not share:
        return wander
    loose = part - part.mean()
    mean = float(part.mean()) + (alike[0] - wander.mean(torch.clone, power=1.0)) / share
    flat = replace(wander, **{name: torch.full_like(part, mean)})
    var = float(loose.square().mean())
    wanted = max(alike[1] - flat.mean(torch.square), 0.0) / share
    return replace(wander, **{name: mean + loose * math.sqrt(wanted / var if var else 0.0)})
