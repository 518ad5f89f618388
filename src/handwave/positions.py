"""Positions of one input: how alike two of them are, next to each other and further apart."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handwave.pairs import beside, neighbours
from handwave.quadrature import Elementwise
from handwave.roots import falling_root
from handwave.shaping import Shaping
from handwave.signals import Signal
from handwave.wandering import Wander

# Square lengths up to so many times the average, and down to its inverse, are told apart in so
# many steps each way.
_LONGEST, _STEPS = 30.0, 24


def shaped(wander: Wander, function: Elementwise, base: Signal, second: float) -> Wander:
    """Put f on what positions of one input have in common: of a bright image, all are long.

    Args:
        wander: of Gaussian z.
        function: f.
        base: the signal of the z.
        second: E[f²].

    Returns:
        The same with `near` and `within` of f(z); as it came where it is of no map.
    """
    axes = wander.same.dim() - 1
    if axes < 1 or len(wander.same) != len(wander.within) or not base.moments.std:
        return wander
    roots = wander.same.clamp_min(1e-9).sqrt()
    image = roots.flatten(1).mean(1).square().reshape(-1, *[1] * axes)
    return replace(
        wander,
        near=_put(wander.near, roots * beside(roots), function, base) / second,
        within=_put(wander.within, image, function, base) / second,
    )


def _put(likeness: Tensor, length: Tensor, function: Elementwise, base: Signal) -> Tensor:
    """Return E[f(z_a)·f(z_b)] of positions that are both longer, or shorter, than others."""
    length, likeness = torch.broadcast_tensors(length, likeness)
    law, found = base.moments, torch.empty_like(likeness)
    limits = (1 / _LONGEST, _LONGEST)
    step = (length.clamp(*limits).log() / math.log(_LONGEST) * _STEPS).round()
    for each in step.unique().tolist():
        there, long = step == each, _LONGEST ** (each / _STEPS)
        series = Shaping.of(function, law.mean, law.std * math.sqrt(long))
        whole = (law.mean**2 + law.var * long) / law.second_moment
        found[there] = series.second * series.likeness(likeness[there] / whole)
    return found


@dataclass(frozen=True)
class Decay:
    """Let likeness fall to a floor, by the same factor with every step along an axis.

    Args:
        factor: that.
        floor: how alike positions far apart are.
    """

    factor: float
    floor: float

    @classmethod
    def of(cls, wander: Wander, sizes: tuple[int, ...]) -> "Decay":
        """Find what makes neighbours, and different positions on average, as alike as they are."""
        near, within = float(wander.near.mean()), float(wander.within.mean())
        if not 1 > near > within:
            return cls(0.0, within)

        def too_near(factor: float) -> float:
            beside = (1 - within) * (1 - _beside(factor, len(sizes)))
            return beside - (1 - near) * (1 - _apart(factor, sizes))

        factor = falling_root(too_near, 1e-9, 1 - 1e-9)
        return cls(factor, 1 - (1 - within) / (1 - _apart(factor, sizes)))

    def of_pairs(self, one: list[Tensor], other: list[Tensor]) -> float:
        """Average over pairs of positions, one of each window.

        Args:
            one: the share of each position in each window, along each axis.
            other: likewise, of as many windows.
        """
        powers = math.prod(_along(a, b, self.factor) for a, b in zip(one, other, strict=True))
        return self.floor + (1 - self.floor) * powers

    def of_neighbours(self, axes: int) -> float:
        """Average over neighbours."""
        return self.floor + (1 - self.floor) * _beside(self.factor, axes)


def _along(one: Tensor, other: Tensor, factor: float) -> float:
    """Average the powers over pairs of positions along an axis, one of each window."""
    places = torch.arange(one.shape[1], dtype=torch.float64)
    powers = factor ** (places[:, None] - places).abs()
    return float(((one @ powers) * other).sum(1).mean())


def _beside(factor: float, axes: int) -> float:
    """Average the powers over neighbours, those across included."""
    kinds = neighbours(axes)
    return sum(factor ** sum(kind) for kind in kinds) / len(kinds)


def _apart(factor: float, sizes: tuple[int, ...]) -> float:
    """Average the powers over all pairs of different positions."""
    whole, alone = 1.0, 1 / math.prod(sizes)
    for size in sizes:
        steps = torch.arange(1, size, dtype=torch.float64)
        whole *= (size + 2 * float((size - steps) @ factor**steps)) / size**2
    return (whole - alone) / (1 - alone)
