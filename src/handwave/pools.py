"""Windows of positions, and averages over them."""

from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from handwave.layouts import Layout, Rows
from handwave.pairs import neighbours, turns
from handwave.wandering import on_map

_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, *_ADAPTIVE)

# Share of what independent positions leave of a second moment.
_LEAST = 0.8


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

    @cached_property
    def layout(self) -> Layout:
        """Return which positions each window has."""
        return Layout(self.rows)

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
        return pairs(self.rows, self.rows)

    @property
    def alone(self) -> Tensor:
        """Return of all pairs of a window those of a position with itself; (*map)."""
        return self.shares[0]

    @cached_property
    def together(self) -> float:
        """Return of two pairs of a window how often they are as far apart, but not one position."""
        shares = 1.0
        for rows in self.rows:
            apart = conv1d(rows[None], rows[:, None], padding=rows.shape[1] - 1, groups=len(rows))
            shares *= float(apart[0].square().sum(1).mean())
        return max(shares - float(self.alone.mean()) ** 2, 0.0)

    def of(self, maps: Tensor) -> Tensor:
        """Average some maps over each window; (maps, *map)."""
        return self.forward(on_map(maps, self.sizes)) / self.total

    def of_neighbours(self, maps: Tensor) -> Tensor:
        """Average over the neighbours in each window; (pairs, *map), of the shifts as they come."""
        maps, kinds = on_map(maps, self.sizes), neighbours(len(self.sizes))
        turn = turns(len(maps), len(kinds))
        made = maps.new_empty(len(maps), *self.total.shape)
        for number, kind in enumerate(kinds):
            own = turn == number
            made[own] = reduce(
                _contracted, zip(self.rows, kind, strict=True), maps[own].movedim(0, -1)
            )
        return made

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

    @property
    def least(self) -> float:
        """Return what is left at least: less is too little to be told from nothing."""
        return _LEAST * float(self.alone.mean())


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


def _contracted(maps: Tensor, axis: tuple[Tensor, int]) -> Tensor:
    """Average over the windows along the first axis, which becomes the last.

    Args:
        maps: how alike each position and its neighbour are.
        axis: the share of each position in each window, and whether the neighbour is along it.
    """
    rows, step = axis
    if step:
        rows = rows * pad(rows[:, 1:], (0, 1))
    rows = rows / rows.sum(1, keepdim=True).clamp_min(1e-9)
    return _turned(rows, maps)


def _turned(rows: Tensor, maps: Tensor) -> Tensor:
    """Multiply along the first axis, which becomes the last."""
    return torch.einsum("i...,wi->...w", maps, rows)


def pairs(one: Rows, other: Rows) -> tuple[Tensor, Tensor]:
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
