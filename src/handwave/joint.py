"""The positions of a window together: Gaussian, each of its own length, as alike as they are."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from handwave.lengths import SHORTEST
from handwave.neighbourhoods import ALL_BUT, Neighbourhoods
from handwave.pools import Pool
from handwave.quadrature import Elementwise
from handwave.settling import of_points
from handwave.signals import Signal
from handwave.wandering import on_map

# Numbers drawn for all windows together, and draws of one window of one image at least.
_NUMBERS, _FEWEST = 1 << 21, 8

# Equally likely values of a standard normal number, for lengths.
_LENGTHS = torch.special.ndtri((torch.arange(9, dtype=torch.float64) + 0.5) / 9)

_ROUNDS = 60  # in which parts of a sum of squares settle
# Degrees of freedom; of fewer others, what is divided by them may be without bounds.
_MANY, _FEWEST_OTHERS = 1e4, 3.0


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
        inside, shape = self.pool.layout.inside, self.pool.total.shape
        y = function(self._z).where(inside[..., None], -math.inf).amax(2)
        return y.mean((0, 2)).reshape(shape), y.square().mean((0, 2)).reshape(shape)

    @cached_property
    def _windows(self) -> Neighbourhoods:
        units, law = self.base.units, self.base.moments
        share = law.mean**2 / (law.second_moment or 1.0)
        return Neighbourhoods(self.pool.layout, units.met(units.wander, share), share)

    @property
    def _z(self) -> Tensor:
        """Draw the z of all positions; (images, windows, positions, draws)."""
        units, base = self.base.units, self.base
        var, shares = of_points(units, base.moments.var)
        maps = [part.expand(self.pool.sizes)[None] for part in (base.mean, base.second)]
        mean, second = (self._windows.of(part)[..., None] for part in maps)
        # At each position as the signal has it, of each image as that is longer than others.
        of_each = on_map(var, self.pool.sizes)
        of_each = of_each / of_each.mean(0) * (of_each.mean() / base.moments.var)
        longer = self._windows.of(of_each[: self._windows.images])[..., None]
        z = self._gaussian
        if units.of_norms:
            z = z * self._settled(shares, units.of_norms)
        lengths = log_normal(units.wander.lengths + units.wander.cumulants[1])
        z = z * lengths[torch.arange(z.shape[-1]) % len(lengths)]
        return mean + z * (longer * (second - mean.square())).clamp_min(0).sqrt()

    @cached_property
    def _gaussian(self) -> Tensor:
        """Return z of variance one, and of the windows' correlations; each with its opposite."""
        images, (windows, positions) = self._windows.images, self.pool.layout.inside.shape
        values, vectors = torch.linalg.eigh(self._windows.correlations)
        root = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
        root = root / root.square().sum(-1, keepdim=True).sqrt()
        count = max(_NUMBERS // (windows * images * positions), _FEWEST) // 2
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
        whole, inside = settled / 2, self.pool.layout.inside
        one = torch.full((1, *self.pool.sizes), whole, dtype=torch.float64)
        known = one if shares is None else on_map(shares, self.pool.sizes)[: self._windows.images]
        own = self._windows.of(known).expand(self._windows.images, *inside.shape) * inside
        square = self._windows.correlations.square() * inside[:, :, None] * inside[:, None]
        parts = _parts(own, square)
        of_parts = (parts * _times(square, parts)).sum(-1, keepdim=True)
        # Some of Var(v) are never more than all of it.
        parts = parts * (whole / of_parts.clamp_min(SHORTEST)).sqrt().clamp(max=1)
        rest = 1 - parts.sum(-1)
        open_ = whole - (parts * _times(square, parts)).sum(-1)
        others = (rest.square() / open_.clamp_min(1 / _MANY)).clamp_min(_FEWEST_OTHERS)
        half = self._gaussian.shape[-1] // 2
        freedom = others[..., None].expand(*others.shape, half).numpy()
        chi = torch.from_numpy(np.random.default_rng(0).chisquare(freedom) / freedom)
        v = rest[..., None] * torch.cat([chi, chi], dim=-1)
        v = v + (parts[..., None] * self._gaussian.square()).sum(2)
        return v.clamp_min(SHORTEST).rsqrt()[:, :, None]


def _parts(shares: Tensor, square: Tensor) -> Tensor:
    """Return a ≥ 0 with Σ_q ρ²_pq·a_q = s_p as nearly as can be; (…, positions).

    Args:
        shares: s.
        square: ρ².
    """
    parts = shares
    for _ in range(_ROUNDS):
        parts = parts * shares / _times(square, parts).clamp_min(SHORTEST**2)
    return parts * (ALL_BUT / parts.sum(-1, keepdim=True).clamp_min(SHORTEST)).clamp(max=1)


def _times(square: Tensor, parts: Tensor) -> Tensor:
    return (square @ parts[..., None])[..., 0]
