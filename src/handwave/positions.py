"""Positions of one input: how alike two of them are, next to each other and further apart."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from handwave.lengths import at_lengths, correlations, growth, lengths, of_pairs
from handwave.moments import Moments
from handwave.pairs import neighbours
from handwave.roots import falling_root
from handwave.shaping import Shaping
from handwave.wandering import PAIRS, Wander


def shaped(
    wander: Wander, shaping: Shaping, law: Moments, settled: float, taken: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Put f on what two points have in common, each of its own length.

    Args:
        wander: of Gaussian z.
        shaping: of f.
        law: of f, over all points.
        settled: relative variance of a unit's mean square that a norm over the batch has taken.
        taken: by class of pairs, what it has taken of the square of their correlation.

    Returns:
        The likeness of different f(z) by class of pairs; nothing where all points are alike.
    """
    long = {name: each for name, each in lengths(wander).items() if name in PAIRS}
    low = _low(wander, shaping)
    low[0] += law.mean - low[0].mean()
    flat, line, bent = (of_pairs(wander, each) for each in low)
    made = {}
    for name, rho in correlations(wander, shaping, long).items():
        square = (rho * rho - taken.get(name, 0.0)) / (1 + settled)
        rest = at_lengths(shaping, long[name], getattr(wander, name), _beyond)[0]
        made[name] = flat[name] + line[name] * rho + bent[name] * square + rest
    return {name: each / law.second_moment for name, each in made.items()}


def _low(wander: Wander, shaping: Shaping) -> Tensor:
    """Return the first three terms of f at the length of each point; (3, points, *map)."""

    def put(series: Shaping, second: Tensor, _: Tensor) -> Tensor:
        return series.low[:, None] * growth(series, second)

    return at_lengths(shaping, wander.same, wander.same, put)


def _beyond(series: Shaping, second: Tensor, likeness: Tensor) -> Tensor:
    """Return what E[f_a·f_b] has beyond the square of correlation."""
    return (second / (series.second or 1.0) * series.bent(likeness))[None]


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

    def of_neighbours(self, axes: int, steps: int = 1) -> float:
        """Average over neighbours, or over positions so many steps apart."""
        return self.floor + (1 - self.floor) * _beside(self.factor**steps, axes)


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
    return (whole - alone) / (1 - alone) if alone < 1 else 0.0
