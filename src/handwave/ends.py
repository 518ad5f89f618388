"""Which points the pairs of a batch are made of, as likeness is followed through the layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_EXACT = 1e-6  # of a position, that a share of a map may be short of a whole number


@dataclass(frozen=True)
class Ends:
    """Say which points the pairs of different inputs are made of.

    Args:
        first, second: which of the points whose likeness with themselves is known; (pairs,).
        moves: how far the second one's position is from the first one's, around the edges, as
            shares of the sizes of the map; (pairs, axes).
    """

    first: Tensor
    second: Tensor
    moves: Tensor

    def of(self, points: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
        """Return what is known of each point for the two of each pair, in their own places.

        Args:
            points: (points, *map).
            pairs: how many.
        """
        return points[self.first[:pairs]], points[self.second[:pairs]]

    def averaged(self, likeness: Tensor) -> Tensor:
        """Average over the pairs that have the same first point; (pairs, *map)."""
        alone = replace(self.at_one_position, second=self.first)
        return alone.around(likeness)[self.first[: len(likeness)]]

    def around(self, likeness: Tensor) -> Tensor:
        """Average over all pairs that a point is in, as the first one or as the second.

        Args:
            likeness: (pairs, *map).

        Returns:
            Shape (points, *map).
        """
        first, second = (end[: len(likeness)] for end in (self.first, self.second))
        size = int(max(self.first.max(), self.second.max())) + 1
        total = likeness.new_zeros(size, *likeness.shape[1:])
        total = total.index_add(0, first, likeness).index_add(0, second, self._back(likeness))
        count = first.bincount(minlength=size) + second.bincount(minlength=size)
        return total / count.reshape(-1, *[1] * (total.dim() - 1))

    @property
    def at_one_position(self) -> "Ends":
        """Return the pairs of the same points without a move."""
        return replace(self, moves=self.moves[:, :0])

    def moved(self, maps: Tensor, stride: Sequence[int] | None = None) -> Tensor:
        """Put in the place of each position the one that it is paired with; (pairs, *map).

        Args:
            maps: of as many pairs, or of the first ones; as they come if they have other axes.
            stride: along each axis, what moves are multiples of.
        """
        places = self._places(maps, stride)
        return maps if places is None else maps.flatten(1).gather(1, places).reshape(maps.shape)

    def _back(self, maps: Tensor) -> Tensor:
        """Undo `moved`."""
        places = self._places(maps, None)
        if places is None:
            return maps
        flat = maps.flatten(1)
        return torch.empty_like(flat).scatter(1, places, flat).reshape(maps.shape)

    def _places(self, maps: Tensor, stride: Sequence[int] | None) -> Tensor | None:
        """Return, for each position of a flattened map, the one that it is paired with."""
        sizes = maps.shape[1:]
        if not sizes or self.moves.shape[1] != len(sizes):
            return None
        steps, places = self.steps(sizes, stride)[: len(maps)], torch.zeros(1, dtype=torch.int64)
        for axis, size in enumerate(sizes):
            along = (torch.arange(size) - steps[:, axis, None]) % size
            places = places[..., None] * size + along.reshape(len(maps), *[1] * axis, size)
        return places.flatten(1)

    def sides(self, maps: Tensor) -> Tensor:
        """Number the parts of a map that move as one, not around an edge; (pairs, *map).

        Args:
            maps: of as many pairs, or of the first ones.
        """
        sizes, found = maps.shape[1:], torch.zeros(len(maps), dtype=torch.int64)
        steps = self.steps(sizes)[: len(maps)]
        for axis, size in enumerate(sizes):
            around = (torch.arange(size) < steps[:, axis, None]).long()
            found = found[..., None] * 2 + around.reshape(len(maps), *[1] * axis, size)
        return found

    def steps(self, sizes: tuple[int, ...], stride: Sequence[int] | None = None) -> Tensor:
        """Return how many positions apart the two of each pair are; (pairs, axes).

        Never none, as long as there are other positions: those that a smaller map has brought
        together stand for others.
        """
        by = torch.tensor(stride or [1] * len(sizes))
        grid = (torch.tensor(sizes) / by).ceil().long()
        steps = (self.moves * torch.tensor(sizes) / by + _EXACT).long() % grid
        still, places = (steps == 0).all(1), math.prod(grid.tolist())
        if places > 1:
            others = 1 + torch.arange(int(still.sum())) % (places - 1)
            steps[still] = torch.stack(torch.unravel_index(others, grid.tolist()), dim=1)
        return steps * by
