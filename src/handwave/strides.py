"""Pairs of positions that both are in the middle of a window, where windows go in strides."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from handwave.wandering import Wander

_HALF = 0.5  # of the windows along an axis, which a pair has to be right for


def in_step(wander: Wander, layer: _ConvNd, sizes: Sequence[int], out: Sequence[int]) -> Wander:
    """Let pairs that lead from one window to another stand for those that lead in between.

    Pairs that have the same first point, so that there are as many of each.

    Args:
        wander: of the positions.
        layer: the convolution; of its weight, nothing is used.
        sizes: of the map of positions.
        out: of the map of windows.
    """
    ends = wander.ends
    if ends is None or layer.transposed or max(layer.stride) == 1:
        return wander
    moves, good = ends.moves.clone(), torch.ones(len(ends.moves), dtype=torch.bool)
    for axis, along in enumerate(ends.steps(tuple(sizes)).T):
        steps, share = _led(
            along, _middles(layer, axis, out[axis]), layer.stride[axis], sizes[axis]
        )
        moves[:, axis] = (steps % out[axis]) / out[axis]
        good &= share >= _HALF
    moves[~good] = ends.moves[~good]
    order = _of_same_first(ends.first, good)
    parts = {name: getattr(wander, name)[order] for name in ("far", "aligned", "within")}
    told = replace(ends, first=ends.first[order], second=ends.second[order], moves=moves[order])
    return replace(wander, **parts, ends=told)


def _middles(layer: _ConvNd, axis: int, windows: int) -> Tensor:
    """Return where along an axis the middle of each window is."""
    padding = layer.padding[axis]
    first = layer.dilation[axis] * (layer.kernel_size[axis] // 2) - int(padding)
    return first + layer.stride[axis] * torch.arange(windows)


def _led(steps: Tensor, middles: Tensor, stride: int, size: int) -> tuple[Tensor, Tensor]:
    """Return how many windows apart pairs are, and for what share of the windows they are so.

    Args:
        steps: how many positions apart they are, around the edge of the map; (pairs,).
        middles: of the windows, along the axis.
        stride: of the windows.
        size: of the map.
    """
    straight, around = steps, steps - size
    found = []
    for by in (straight, around):
        other = middles - by[:, None]
        there = (other >= 0) & (other < size) & (other >= middles[0]) & (other <= middles[-1])
        found.append(there.double().mean(1) * (by % stride == 0))
    same = (size % stride == 0) & (size // stride == len(middles))
    share = found[0] + found[1] if same else torch.maximum(*found)
    by = torch.where(found[0] >= found[1], straight, around)
    return by.div(stride, rounding_mode="floor"), share


def _of_same_first(first: Tensor, good: Tensor) -> Tensor:
    """Return for each pair the one that stands for it: a good one with the same first point."""
    order = torch.arange(len(first))
    for point in first.unique():
        own = (first == point).nonzero()[:, 0]
        some = own[good[own]]
        if len(some):
            order[own] = some[torch.arange(len(own)) % len(some)]
    return order
