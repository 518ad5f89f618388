"""Which positions each window of a map has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Rows = list[Tensor]  # for each axis, the share of each position in each window

# Windows of more positions are not followed position by position.
_MOST_POSITIONS = 25


@dataclass(frozen=True)
class Layout:
    """Look up windows in a row, and the positions of each in a row.

    Those at an edge may have fewer positions than others: what is missing stands at 0.

    Args:
        rows: along each axis, the share of each position in each window.
    """

    rows: Rows

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the sizes of the map."""
        return tuple(rows.shape[1] for rows in self.rows)

    @cached_property
    def steps(self) -> Tensor:
        """Return how far apart two positions of a window are; (positions, positions, axes)."""
        grid = _grid([at.shape[1] for at, _ in self._axes])
        return grid[:, None] - grid

    @property
    def few(self) -> bool:
        """Tell whether windows have few enough positions to follow each with each."""
        return math.prod(at.shape[1] for at, _ in self._axes) <= _MOST_POSITIONS

    @cached_property
    def places(self) -> Tensor:
        """Return the positions of each window; (windows, positions, axes)."""
        return torch.stack(self._found(0), dim=-1)

    @cached_property
    def inside(self) -> Tensor:
        """Return which positions a window has; (windows, positions)."""
        return torch.stack(self._found(1)).all(0)

    @cached_property
    def _axes(self) -> list[tuple[Tensor, Tensor]]:
        return [_of_axis(rows) for rows in self.rows]

    def _found(self, which: int) -> list[Tensor]:
        """Look up along each axis where positions are, or whether there is one."""
        windows, places = (_grid([at.shape[by] for at, _ in self._axes]) for by in (0, 1))
        return [
            each[which][windows[:, None, axis], places[:, axis]]
            for axis, each in enumerate(self._axes)
        ]

    @cached_property
    def doubled(self) -> "Layout":
        """Return the windows with their neighbours, those at an end with the one on this side."""
        return Layout([rows + rows[_next(len(rows))] for rows in self.rows])

    def in_doubled(self, kind: Sequence[int]) -> Tensor:
        """Return the share that positions of `doubled` have in one of its windows.

        Args:
            kind: which one: 0 or 1 along each axis.

        Returns:
            Shape (windows, positions).
        """
        shares = torch.ones(1, 1, dtype=torch.float64)
        for rows, step, (at, inside) in zip(self.rows, kind, self.doubled._axes, strict=True):
            one = rows[_next(len(rows))] if step else rows
            shares = torch.kron(shares, one.gather(1, at) * inside)
        return shares


def _of_axis(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of each window along one axis, and which are any; (windows, most)."""
    inside = (rows > 0).int().sort(dim=1, descending=True, stable=True)
    most = int(inside.values.sum(1).max())
    there = inside.values[:, :most].bool()
    return inside.indices[:, :most] * there, there


def _next(windows: int) -> list[int]:
    """Return which window is next to each along an axis; at the end, the one on this side."""
    return [*range(1, windows), max(windows - 2, 0)]


def _grid(sizes: list[int]) -> Tensor:
    """Return all places of a grid in a row; (places, axes)."""
    return torch.cartesian_prod(*(torch.arange(n) for n in sizes)).reshape(-1, len(sizes))
