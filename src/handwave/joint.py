"""The positions of a window together: Gaussian, each of its own length, as alike as they are."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from handwave.lengths import SHORTEST
from handwave.pairs import moved, neighbours, turns
from handwave.pools import Pool
from handwave.quadrature import Elementwise
from handwave.settling import of_points
from handwave.signals import Signal
from handwave.wandering import Wander, on_map

# Windows of more positions are followed otherwise; of more images, some tell enough.
MOST_POSITIONS, _IMAGES = 16, 16

# Draws of all windows together, and of one window of one image at least.
_DRAWS, _FEWEST = 1 << 19, 32

# Equally likely values of a standard normal number, for lengths.
_LENGTHS = torch.special.ndtri((torch.arange(9, dtype=torch.float64) + 0.5) / 9)

_ALL_BUT = 0.999  # of a correlation of one, so that others do not hang on rounding
_ROUNDS = 60  # in which parts of a sum of squares settle
_MANY, _FEWEST_OTHERS = 1e4, 0.05  # degrees of freedom


def log_normal(unlike: float) -> Tensor:
    """Return equally likely lengths whose squares have this relative variance, log-normal."""
    spread = math.log1p(max(unlike, 0.0))
    made = torch.exp(math.sqrt(spread) * _LENGTHS / 2)
    return made / made.square().mean().sqrt()


@dataclass(frozen=True)
class Joint:
    """Draw the z of all windows, from a seed of their own.

    Args:
        pool: the windows.
        base: the signal of the z.
    """

    pool: Pool
    base: Signal

    def largest(self, function: Elementwise) -> tuple[Tensor, Tensor]:
        """Return E[y] and E[y²] of y = max f(z) of each window; (*map)."""
        inside, shape = self.pool.places[1], self.pool.total.shape
        y = function(self._z).where(inside[..., None], -math.inf).amax(2)
        return y.mean((0, 2)).reshape(shape), y.square().mean((0, 2)).reshape(shape)

    @cached_property
    def _wander(self) -> Wander:
        units, law = self.base.units, self.base.moments
        return units.met(units.wander, law.mean**2 / (law.second_moment or 1.0))

    @cached_property
    def _images(self) -> int:
        ends = self._wander.ends
        known = len(self._wander.same) if ends is None else 1 + int(ends.first.max())
        return min(known, _IMAGES)

    def _of_windows(self, maps: Tensor) -> Tensor:
        """Look up the positions of each window; (images, *map) to (images, windows, positions)."""
        return on_map(maps, self.pool.sizes).flatten(1)[:, self._flat(self.pool.places[0])]

    def _flat(self, places: Tensor) -> Tensor:
        """Number the places of a map in a row; (…, axes) to (…)."""
        flat = torch.zeros(places.shape[:-1], dtype=torch.int64)
        for axis, size in enumerate(self.pool.sizes):
            flat = flat * size + places[..., axis]
        return flat

    @cached_property
    def _z(self) -> Tensor:
        """Draw the z of all positions; (images, windows, positions, draws)."""
        units, base = self.base.units, self.base
        var, shares = of_points(units, base.moments.var)
        maps = [part.expand(self.pool.sizes)[None] for part in (base.mean, base.second)]
        mean, second = (self._of_windows(part)[..., None] for part in maps)
        # At each position as the signal has it, of each image as that is longer than others.
        of_each = on_map(var, self.pool.sizes)
        of_each = of_each / of_each.mean(0) * (of_each.mean() / base.moments.var)
        longer = self._of_windows(of_each[: self._images])[..., None]
        z = self._gaussian
        if shares is not None or units.of_norms:
            z = z * self._settled(shares, units.of_norms)
        lengths = log_normal(units.wander.lengths + units.wander.cumulants[1])
        z = z * lengths[torch.arange(z.shape[-1]) % len(lengths)]
        return mean + z * (longer * (second - mean.square())).clamp_min(0).sqrt()

    @cached_property
    def _gaussian(self) -> Tensor:
        """Return z of variance one, and of the windows' correlations; each with its opposite."""
        images, (windows, positions) = self._images, self.pool.places[1].shape
        values, vectors = torch.linalg.eigh(self.correlations)
        root = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
        root = root / root.square().sum(-1, keepdim=True).sqrt()
        count = max(_DRAWS // (windows * images), _FEWEST) // 2
        generator = torch.Generator().manual_seed(0)
        e = torch.randn(images, windows, positions, count, generator=generator, dtype=torch.float64)
        half = root @ e
        return torch.cat([half, -half], dim=-1)

    def _settled(self, shares: Tensor | None, settled: float) -> Tensor:
        """Return what a norm multiplies the z of a window by; (images, windows, 1, draws).

        Of the mean square v over n points, the window makes Σ a_p·z_p², such that each of its
        points has Cov(z_p², v) = 2·s_p, s its share; and others (1 − Σ a_p)·χ²_m/m, such that
        Var(v) = 2/n.

        Args:
            shares: s of all points; None where nobody knows: 1/n.
            settled: 2/n.
        """
        whole, inside = settled / 2, self.pool.places[1]
        one = torch.full((1, *self.pool.sizes), whole, dtype=torch.float64)
        known = one if shares is None else on_map(shares, self.pool.sizes)[: self._images]
        own = self._of_windows(known).expand(self._images, *inside.shape) * inside
        square = self.correlations.square() * inside[:, :, None] * inside[:, None]
        parts = _parts(own, square)
        rest = 1 - parts.sum(-1)
        open_ = whole - (parts * _times(square, parts)).sum(-1)
        others = (rest.square() / open_.clamp_min(1 / _MANY)).clamp_min(_FEWEST_OTHERS)
        half = self._gaussian.shape[-1] // 2
        freedom = others[..., None].expand(*others.shape, half).numpy()
        chi = torch.from_numpy(np.random.default_rng(0).chisquare(freedom) / freedom)
        v = rest[..., None] * torch.cat([chi, chi], dim=-1)
        v = v + (parts[..., None] * self._gaussian.square()).sum(2)
        return v.clamp_min(SHORTEST).rsqrt()[:, :, None]

    @cached_property
    def correlations(self) -> Tensor:
        """Return those of the positions of each window; (images, windows, positions, positions).

        Of neighbours as they are followed; positions further apart have nothing in common beyond
        what those between them tell.
        """
        places, inside = self.pool.places
        grid = torch.cartesian_prod(*(torch.arange(n) for n in self.pool.spans))
        grid = grid.reshape(len(inside[0]), -1)
        steps = grid[:, None] - grid
        apart = steps.abs()
        corner = self._flat(torch.minimum(places[:, :, None], places[:, None]))
        beside = self._beside
        across = _across(*beside.values()) if len(self.pool.sizes) == 2 else None
        found = torch.zeros(self._images, *corner.shape, dtype=torch.float64)
        for kind, near in beside.items():
            here = (apart == torch.tensor(kind)).all(-1)
            found = near.flatten(1)[:, corner].where(here, found)
        if across is not None:
            found = across.flatten(1)[:, corner].where(steps.prod(-1) == -1, found)
        found = found * (inside[:, :, None] & inside[:, None])
        found.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        return _completed(found, apart.amax(-1) <= 1)

    def _correlation(self, likeness: Tensor) -> Tensor:
        law = self.base.moments
        share = law.mean**2 / (law.second_moment or 1.0)
        return (likeness - share) / (1 - share)

    @cached_property
    def _beside(self) -> dict[tuple[int, ...], Tensor]:
        """Return the correlations of neighbours by direction; (images, *map).

        Of images that were not followed in a direction, those of others, and by as much more as
        they are alike in other directions.
        """
        wander, kinds = self._wander, neighbours(len(self.pool.sizes))
        near, same = (on_map(each, self.pool.sizes) for each in (wander.near, wander.same))
        turn = turns(len(near), len(kinds))
        first = torch.arange(len(near)) if wander.ends is None else wander.ends.first[: len(near)]
        own, others, seen = [], [], []
        for place, kind in enumerate(kinds):
            some = (turn == place) if bool((turn == place).any()) else turn >= 0
            long = same[torch.arange(len(near)) % len(same)]
            long = (long * moved(long, (0, *kind))).clamp_min(SHORTEST).sqrt()
            pairs = (self._correlation(near) / long).clamp(-1, 1)
            weights = long
            mean = (pairs * weights)[some].sum(0) / weights[some].sum(0)
            of_images = torch.zeros(self._images, *self.pool.sizes, dtype=torch.float64)
            told = some & (first < self._images)
            of_images[first[told]] = pairs[told]
            known = torch.zeros(self._images, dtype=torch.bool)
            known[first[told]] = True
            own.append(of_images)
            others.append(mean)
            seen.append(known.reshape(-1, *[1] * len(kind)))
        off = sum(known * (a - b) for known, a, b in zip(seen, own, others, strict=True))
        off = off / sum(known.double() for known in seen).clamp_min(1)
        table = zip(kinds, seen, own, others, strict=True)
        return {kind: a.where(known, (b + off).clamp(-1, 1)) for kind, known, a, b in table}


def _across(right: Tensor, below: Tensor, over: Tensor) -> Tensor:
    """Return the correlation of b and c in a square of positions a b / c d, by all the others.

    Beyond what a and d tell, b and c have nothing in common: of all laws that have the others'
    correlations, this has the most entropy.

    Args:
        right, below, over: of each position with its neighbour in that direction, (images, *map).
    """
    ab, ac, ad = right, below, over * _ALL_BUT
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
        between = found[..., near[:, None], near] * _ALL_BUT
        between.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        told = torch.linalg.solve(between, found[..., near[:, None], far])
        made = (found[..., place, None, near] @ told)[..., 0, :].clamp(-1, 1)
        found[..., place, far] = found[..., far, place] = made
    return found


def _parts(shares: Tensor, square: Tensor) -> Tensor:
    """Return a ≥ 0 with Σ_q ρ²_pq·a_q = s_p as nearly as can be; (…, positions).

    Args:
        shares: s.
        square: ρ².
    """
    parts = shares
    for _ in range(_ROUNDS):
        parts = parts * shares / _times(square, parts).clamp_min(SHORTEST**2)
    return parts * (_ALL_BUT / parts.sum(-1, keepdim=True).clamp_min(SHORTEST)).clamp(max=1)


def _times(square: Tensor, parts: Tensor) -> Tensor:
    return (square @ parts[..., None])[..., 0]
