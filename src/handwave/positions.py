"""Positions of one input: how alike two of them are, next to each other and further apart."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from handwave.moments import Moments
from handwave.pairs import beside, neighbours
from handwave.quadrature import Elementwise
from handwave.roots import falling_root
from handwave.shaping import Shaping
from handwave.signals import Signal
from handwave.wandering import Wander

# Square lengths up to so many times the average, and down to its inverse, are told apart in so
# many steps each way.
_LONGEST, _STEPS = 30.0, 24


def shaped(wander: Wander, function: Elementwise, base: Signal, second: float) -> dict[str, Tensor]:
    """Put f on what two points have in common, each of its own length.

    Args:
        wander: of Gaussian z.
        function: f.
        base: the signal of the z.
        second: E[f²].

    Returns:
        The likeness of different f(z) by class of pairs; nothing where all points are alike.
    """
    ends, alike = wander.ends, wander.same.clamp_min(1e-9).sqrt()
    if ends is None or not base.moments.std:
        return {}
    first, other = ends.of(alike, len(wander.far))
    long = {"far": first * ends.moved(other), "aligned": first * other}
    if alike.dim() > 1:
        inside, next_ = (alike[: len(getattr(wander, name))] for name in ("within", "near"))
        long |= {"within": inside * ends.moved(inside), "near": next_ * beside(next_)}
    put = _Lengths(function, base.moments)
    return {name: put(getattr(wander, name), length) / second for name, length in long.items()}


class _Lengths:
    """Average f(z_a)·f(z_b) of points that are both longer, or shorter, than others."""

    def __init__(self, function: Elementwise, law: Moments) -> None:
        self.function, self.law = function, law
        self.series: dict[float, Shaping] = {}

    def __call__(self, likeness: Tensor, length: Tensor) -> Tensor:
        """Return E[f(z_a)·f(z_b)], likeness over the average of all lengths."""
        length, likeness = torch.broadcast_tensors(length, likeness)
        found, law = torch.empty_like(likeness), self.law
        whole = (law.mean**2 + law.var * length) / law.second_moment
        limits = (1 / _LONGEST, _LONGEST)
        step = (length.clamp(*limits).log() / math.log(_LONGEST) * _STEPS).round()
        for each in step.unique().tolist():
            there, long = step == each, _LONGEST ** (each / _STEPS)
            series = self._of(long)
            # Between two steps, the second moment follows a power of the length.
            second = series.second * (length[there] / long) ** series.slope
            found[there] = second * series.likeness(likeness[there] / whole[there])
        return found

    def _of(self, long: float) -> Shaping:
        if long not in self.series:
            std = self.law.std * math.sqrt(long)
            self.series[long] = Shaping.of(self.function, self.law.mean, std)
        return self.series[long]


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
    return (whole - alone) / (1 - alone) if alone < 1 else 0.0
