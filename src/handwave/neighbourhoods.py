"""How alike the positions of a window are, each with each, as neighbours tell it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from handwave.layouts import Layout
from handwave.lengths import SHORTEST
from handwave.pairs import moved, neighbours, turns
from handwave.pools import Pool
from handwave.positions import Decay
from handwave.wandering import Wander, on_map

# Of more images, some tell enough: so many, and so many pairs of positions of all their windows.
_IMAGES, _MOST_PAIRS = 16, 1 << 22

ALL_BUT = 0.999  # of a correlation of one, so that others do not hang on rounding


@dataclass(frozen=True)
class Neighbourhoods:
    """Look up, for some images, what is known of the positions of each window.

    Args:
        layout: of the windows.
        wander: how alike positions are.
        share: of their second moment, what is taken out: that of a mean.
    """

    layout: Layout
    wander: Wander
    share: float = 0.0

    @cached_property
    def images(self) -> int:
        """Return how many images are looked at."""
        ends = self.wander.ends
        known = len(self.wander.same) if ends is None else 1 + int(ends.first.max())
        windows, positions = self.layout.inside.shape
        return max(min(known, _IMAGES, _MOST_PAIRS // (windows * positions**2)), 1)

    @property
    def first(self) -> Tensor:
        """Return which image the neighbours of each pair are of; (pairs,)."""
        ends, pairs = self.wander.ends, len(self.wander.near)
        return torch.arange(pairs) if ends is None else ends.first[:pairs]

    def of(self, maps: Tensor) -> Tensor:
        """Look up the positions of each window; (images, *map) to (images, windows, positions)."""
        return on_map(maps, self.layout.sizes).flatten(1)[:, self._flat(self.layout.places)]

    def _flat(self, places: Tensor) -> Tensor:
        """Number the places of a map in a row; (…, axes) to (…)."""
        flat = torch.zeros(places.shape[:-1], dtype=torch.int64)
        for axis, size in enumerate(self.layout.sizes):
            flat = flat * size + places[..., axis]
        return flat

    @cached_property
    def correlations(self) -> Tensor:
        """Return those of the positions of each window; (images, windows, positions, positions).

        Of neighbours as they are followed; positions further apart have nothing in common beyond
        what all have, and what those between them tell: of all laws with these neighbours, the one
        of most entropy.
        """
        places, inside, steps = self.layout.places, self.layout.inside, self.layout.steps
        corner = self._flat(torch.minimum(places[:, :, None], places[:, None]))
        found = torch.zeros(self.images, *corner.shape, dtype=torch.float64)
        for kind, near in self.beside.items():
            here = (steps.abs() == torch.tensor(kind)).all(-1)
            found = near.flatten(1)[:, corner].where(here, found)
        if steps.shape[-1] == 2:
            across = _across(*self.beside.values()).flatten(1)[:, corner]
            found = across.where(steps.prod(-1) == -1, found)
        both, floor = inside[:, :, None] & inside[:, None], self._floor
        found = ((found - floor) / (1 - floor)).clamp(-1, 1) * both
        found.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        found = floor + (1 - floor) * _completed(found, steps.abs().amax(-1) <= 1)
        return found * both + torch.diag_embed(1 - inside.double())

    @property
    def _floor(self) -> float:
        """Return how alike positions far apart are, as that of neighbours and of all has it."""
        far = Decay.of(self.wander, self.layout.sizes).floor
        return min(max((far - self.share) / (1 - self.share), -1.0), ALL_BUT)

    @cached_property
    def beside(self) -> dict[tuple[int, ...], Tensor]:
        """Return the correlations of neighbours by direction; (images, *map).

        Of images that were not followed in a direction, those of others, and by as much more as
        they are alike in other directions.
        """
        kinds = neighbours(len(self.layout.sizes))
        turn = turns(len(self.wander.near), len(kinds))
        told = [self._along(kind, turn == place) for place, kind in enumerate(kinds)]
        seen = torch.stack([known for *_, known in told]).double()
        off = sum(known * (own - others) for own, others, known in told)
        off = off / seen.sum(0).clamp_min(1)
        return {
            kind: own.where(known, (others + off).clamp(-1, 1))
            for kind, (own, others, known) in zip(kinds, told, strict=True)
        }

    def _along(self, kind: tuple[int, ...], here: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the correlations of neighbours in a direction, of each image and of all.

        Args:
            kind: the direction.
            here: which pairs are followed in it.

        Returns:
            Those of images, of all together, and which images were followed.
        """
        wander, sizes = self.wander, self.layout.sizes
        near, same = on_map(wander.near, sizes), on_map(wander.same, sizes)
        first, long = self.first, same[torch.arange(len(near)) % len(same)]
        long = (long * moved(long, (0, *kind))).clamp_min(SHORTEST).sqrt()
        pairs = ((near - self.share) / (1 - self.share) / long).clamp(-1, 1)
        here = here if bool(here.any()) else ~here
        others = (pairs * long)[here].sum(0) / long[here].sum(0)
        here = here & (first < self.images)
        own, known = others.repeat(self.images, *[1] * len(kind)), torch.zeros(self.images)
        own[first[here]], known[first[here]] = pairs[here], 1.0
        return own, others, known.bool().reshape(-1, *[1] * len(kind))


def beside_windows(pool: Pool, wander: Wander) -> Tensor:
    """Return how alike neighbouring windows' averages are, pair by pair as neighbours take turns.

    Args:
        pool: the windows, of which two together have few positions.
        wander: how alike positions are.

    Returns:
        Likeness over that of positions; (pairs, *map of windows).
    """
    both = Neighbourhoods(pool.layout.doubled, wander)
    long = both.of(wander.same[: both.images].clamp_min(0).sqrt())
    alike = both.correlations * long[..., None] * long[..., None, :]
    kinds, shape = neighbours(len(pool.sizes)), pool.total.shape
    own, *others = (pool.layout.in_doubled(kind) for kind in ((0,) * len(shape), *kinds))
    found = [((alike @ each[..., None])[..., 0] * own).sum(-1) for each in others]
    table = torch.stack(found).reshape(len(kinds), both.images, *shape)
    turn, first = turns(len(wander.near), len(kinds)), both.first
    known = table[turn, first.clamp(max=both.images - 1)]
    some = first.reshape(-1, *[1] * len(shape)) < both.images
    return known.where(some, table.mean(1)[turn])


def _across(right: Tensor, below: Tensor, over: Tensor) -> Tensor:
    """Return the correlation of b and c in a square of positions a b / c d, by all the others.

    Of all laws that have the others, the one of most entropy.

    Args:
        right: of each position with its neighbour in that direction, (images, *map).
        below: likewise.
        over: likewise.
    """
    ab, ac, ad = right, below, over * ALL_BUT
    cd, bd = moved(right, (0, 1, 0)), moved(below, (0, 0, 1))
    both = ab * ac + bd * cd - ad * (ab * cd + ac * bd)
    return (both / (1 - ad.square())).clamp(-1, 1)


def _completed(found: Tensor, known: Tensor) -> Tensor:
    """Fill in correlations, position by position, by what neighbours of it tell.

    Args:
        found: (…, positions, positions).
        known: which of them are given.
    """
    for place in range(1, len(known)):
        near, far = known[place, :place].nonzero()[:, 0], (~known[place, :place]).nonzero()[:, 0]
        if not len(far):
            continue
        between = found[..., near[:, None], near] * ALL_BUT
        between.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        told = torch.linalg.solve(between, found[..., near[:, None], far])
        made = (found[..., place, None, near] @ told)[..., 0, :].clamp(-1, 1)
        found[..., place, far] = found[..., far, place] = made
    return found
