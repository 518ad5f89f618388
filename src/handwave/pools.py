"""Averages over windows of positions, and how alike they are: that of all pairs of positions."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from handwave.pairs import neighbours
from handwave.positions import Decay
from handwave.wandering import Wander, on_map

_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, *_ADAPTIVE)

# Share of what independent positions leave of a second moment.
_LEAST = 0.75

# Of what a model says of neighbours beyond others, what it may be off by.
_MODEL_ERROR = 0.25

Rows = list[Tensor]  # for each axis, the share of each position in each window


class Pool:
    """Average over the positions of each window, as a layer does.

    Args:
        layer: any of AVERAGES.
        sizes: of the map of positions.
        inputs: how many there are.
    """

    def __init__(self, layer: Any, sizes: tuple[int, ...], inputs: int) -> None:
        self.sizes, self.inputs, self.forward = sizes, inputs, layer.forward
        self.rows: Rows = [_of_axis(layer, axis, size) for axis, size in enumerate(sizes)]
        # What the weights of each window add up to: less than 1 where padding is counted.
        self.total = self.forward(torch.ones(1, *sizes, dtype=torch.float64))[0]
        self.whole = all(bool((rows > 0).all()) for rows in self.rows)

    @property
    def overlap(self) -> bool:
        """See whether a position is in several windows."""
        return any(bool(((rows > 0).sum(0) > 1).any()) for rows in self.rows)

    @property
    def single(self) -> bool:
        """See whether every window is one position: then nothing is averaged."""
        return all(torch.equal(rows, torch.eye(len(rows)).to(rows)) for rows in self.rows)

    @cached_property
    def shares(self) -> tuple[Tensor, Tensor]:
        """Return of all pairs of a window those of one position, and of neighbours; (*map)."""
        return _pairs(self.rows, self.rows)

    @property
    def alone(self) -> Tensor:
        """Return of all pairs of a window those of a position with itself; (*map)."""
        return self.shares[0]

    def of(self, maps: Tensor) -> Tensor:
        """Average some maps over each window; (maps, *map)."""
        return self.forward(on_map(maps, self.sizes)) / self.total

    def of_neighbours(self, maps: Tensor) -> Tensor:
        """Average over the neighbours in each window; (pairs, *map), of the shifts as they come."""
        kinds = itertools.cycle(neighbours(len(self.sizes)))
        made = [
            reduce(_contracted, zip(self.rows, kind, strict=True), image)
            for image, kind in zip(on_map(maps, self.sizes), kinds, strict=False)
        ]
        return torch.stack(made)

    def transposed(self, gradient: Tensor, power: int) -> Tensor:
        """Hand the second moment of a window's gradient to its positions; (*map).

        Args:
            gradient: second moments, (*map of windows), or one for all.
            power: 2 where each position gets its share of the gradient, 1 where one of them gets
                all of it.
        """
        squares = (gradient * self.total**power).expand(self.total.shape)
        for rows in self.rows:  # each time the first axis becomes the last
            squares = _turned((rows**power).T, squares)
        return squares

    def own(self, wander: Wander) -> Tensor:
        """Return how alike two positions of a window are, each with itself included.

        Returns:
            Shape (pairs, *map of windows); pairs are those of `wander`.
        """
        return _Likeness.of(self, wander).own

    @property
    def least(self) -> float:
        """Return what is left at least: less is too little to be told from nothing."""
        return _LEAST * float(self.alone.mean())

    def averaged(self, wander: Wander) -> tuple[Wander, float]:
        """Average likeness over the pairs of two windows.

        Returns:
            Relative to that of a window with itself, on average; and that.
        """
        alike = _Likeness.of(self, wander)
        own, left, square = alike.own, self._left(wander, alike), self.total.square()
        size = square / float(square.mean()) / left
        pairs = self.inputs * (self.inputs - 1)
        put = self._other_window(wander)
        far, within = put(size * self.of(wander.far), pairs), put(size * alike.within, self.inputs)
        aligned = far if self.whole else put(size * self.of(wander.aligned), pairs)
        same = put(size * own, self.inputs) if self.whole else size * own
        middle, scale = within.mean(), float(size.mean())
        kept = self._kept(wander)
        return replace(
            wander,
            same=same / same.mean(),
            far=far,
            aligned=aligned,
            near=within + (scale * alike.beside() - middle),
            within=within + (scale * alike.apart() - middle),
            share=min(wander.share * math.prod(self.sizes) / self.total.numel(), 1.0),
            noise=min(wander.noise * (scale * kept) ** 2, 1.0),
            lengths=wander.lengths * kept,
            skew=wander.skew * kept,
            modelled=self.total.numel() > 1,
        ), left

    def left(self, wander: Wander) -> float:
        """Return how alike two positions of a window are on average, each with itself included."""
        return self._left(wander, _Likeness.of(self, wander))

    def _left(self, wander: Wander, alike: "_Likeness") -> float:
        square = self.total.square()
        left = float((alike.own.mean(0) * square).mean() / square.mean())
        return max(left, self._between(wander), self.least)

    def loose(self, wander: Wander) -> float:
        """Return by how much what is left of a second moment may be off, relative.

        Behind other pooling, neighbours are as alike as a model of their likeness has it.
        """
        if not wander.modelled or self.whole:
            return 0.0
        gap = (float(wander.near.mean()) - float(wander.within.mean())) * _MODEL_ERROR
        return float(self.shares[1].mean()) * abs(gap) / self.left(wander)

    def _between(self, wander: Wander) -> float:
        """Return what inputs share and half of what is a position's own, which nothing cancels."""
        far, within = float(wander.far.mean()), float(wander.within.mean())
        return far + 0.5 * float(self.alone.mean()) * max(1 - within, 0.0)

    def _kept(self, wander: Wander) -> float:
        """Return what share of noise is left of an average."""
        alone, near = (float(part.mean()) for part in self.shares)
        return wander.kept(1 / alone, near / max(1 - alone, 1e-9))

    def _other_window(self, wander: Wander) -> Callable[[Tensor, int], Tensor]:
        """Make what averages likeness over the other window of a pair, as it was over the one."""
        kept = self._kept(wander)

        def put(once: Tensor, period: int) -> Tensor:
            if self.whole and 1 <= period <= len(once) // 2:
                return _of_each(once, period)
            return once.mean() + (once - once.mean()) * kept**0.5

        return put


@dataclass(frozen=True)
class _Likeness:
    """Hold how alike positions are, averaged over one window; (pairs, *map of windows)."""

    windows: Pool
    same: Tensor
    near: Tensor
    within: Tensor
    decay: Decay

    @classmethod
    def of(cls, windows: Pool, wander: Wander) -> "_Likeness":
        same, within = windows.of(wander.same), windows.of(wander.within)
        # Where a window is the whole map, neighbours are among all the others.
        near = within if windows.whole else windows.of_neighbours(wander.near)
        return cls(windows, same, near, within, Decay.of(wander, windows.sizes))

    @cached_property
    def own(self) -> Tensor:
        """Average over the pairs of a window; (pairs, *map of windows)."""
        rows = self.windows.rows
        return self._mixed(*self.windows.shares) + self._beyond(rows, rows)

    def of_pairs(self, one: Rows, other: Rows) -> float:
        """Average over the pairs of some windows with some others."""
        alone, near = (part.mean() for part in _pairs(one, other))
        return float(self._mixed(alone, near).mean()) + self._beyond(one, other)

    def _mixed(self, alone: Tensor, near: Tensor) -> Tensor:
        """Mix pairs of a position with itself, of neighbours, and of all the others."""
        return alone * self.same + near * self.near + (1 - alone - near) * self.within

    def _beyond(self, one: Rows, other: Rows) -> float:
        """Return by how much the others are more alike than any two positions are."""
        if self.windows.whole:
            return 0.0
        alone, near = (float(part.mean()) for part in _pairs(one, other))
        others = self.decay.of_pairs(one, other) - alone
        others -= near * self.decay.of_neighbours(len(one))
        return others - (1 - alone - near) * float(self.within.mean())

    def beside(self) -> float:
        """Average over the pairs of two neighbouring windows."""
        rows, found = self.windows.rows, []
        for axis in [axis for axis, each in enumerate(rows) if len(each) > 1]:
            one, other = list(rows), list(rows)
            one[axis], other[axis] = rows[axis][:-1], rows[axis][1:]
            found.append(self.of_pairs(one, other))
        return sum(found) / len(found) if found else float(self.within.mean())

    def apart(self) -> float:
        """Average over the pairs of any two windows, which may overlap."""
        rows, count = self.windows.rows, self.windows.total.numel()
        if count == 1:
            return float(self.within.mean())
        even = [each.mean(0, keepdim=True) for each in rows]
        return (self.of_pairs(even, even) - float(self.own.mean()) / count) / (1 - 1 / count)


def _of_axis(layer: Any, axis: int, size: int) -> Tensor:
    """Return the share of each position in each window along one axis; (windows, positions)."""

    def of(value: Any) -> Any:
        several = isinstance(value, tuple | list)
        return value[axis % len(value)] if several else value

    if isinstance(layer, _ADAPTIVE):
        made = nn.AdaptiveAvgPool1d(of(layer.output_size) or size)
    else:
        kernel, stride, padding = map(of, (layer.kernel_size, layer.stride, layer.padding))
        made = nn.AvgPool1d(kernel, stride, padding, layer.ceil_mode, count_include_pad=False)
    return made.forward(torch.eye(size, dtype=torch.float64)[None])[0].T


def _contracted(image: Tensor, axis: tuple[Tensor, int]) -> Tensor:
    """Average over the windows along the first axis, which becomes the last.

    Args:
        image: how alike each position and its neighbour are.
        axis: the share of each position in each window, and whether the neighbour is along it.
    """
    rows, step = axis
    if step:
        rows = rows * pad(rows[:, 1:], (0, 1))
    rows = rows / rows.sum(1, keepdim=True).clamp_min(1e-9)
    return _turned(rows, image)


def _turned(rows: Tensor, image: Tensor) -> Tensor:
    """Multiply along the first axis, which becomes the last."""
    product = rows @ image.reshape(len(image), -1)
    return product.reshape(-1, *image.shape[1:]).movedim(0, -1)


def _pairs(one: Rows, other: Rows) -> tuple[Tensor, Tensor]:
    """Return what share of pairs, one of each window, are the same position, and neighbours."""
    padded = [pad(rows, (1, 1)) for rows in other]
    around = [rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] for rows in padded]
    alone, near = (
        reduce(
            lambda made, vector: made[..., None] * vector,
            [(a * b).sum(1) for a, b in zip(one, others, strict=True)],
        )
        for others in (other, around)
    )
    return alone, near - alone


def _of_each(once: Tensor, period: int) -> Tensor:
    """Average over the shifts at which each pair of inputs is followed; pairs come in turns.

    What is left of the differences among shifts is taken out of those among pairs.
    """
    turns = len(once) // period
    table = once[: turns * period].reshape(turns, period, *once.shape[1:])
    means = table.mean(0)
    between, noise = float(means.var(0, correction=0).mean()), float(table.var(0).mean()) / turns
    kept = max(1 - noise / between, 0.0) if between else 0.0
    return once.mean() + (means - means.mean()) * kept**0.5
