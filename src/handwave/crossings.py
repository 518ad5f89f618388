"""A sum of functions of two independent Gaussians: what both of them make together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from handwave.hermite import hermite
from handwave.lengths import lengths
from handwave.quadrature import Elementwise
from handwave.shaping import Together, series
from handwave.wandering import PAIRS, Wander

_REACH = 8.0  # of the nodes, in standard deviations
_TERMS = 20  # of likeness, in either Gaussian


@dataclass(frozen=True)
class Crossed:
    """Hold a sum of two parts as the one Gaussian that it is a function of.

    Args:
        z: that, at the nodes of both Gaussians (nodes, nodes).
        first, second: correlations of both, of the same pairs.
        moved: z where the second moment of the sum has wandered.
        by: log of that second moment, over what it was.
        alike: averages over all pairs of points of ρ₁ʲ·ρ₂ᵏ, of both correlations
            (orders, orders).
        open: of the averages of ρ₁ and of ρ₂, what is not known.
        straight: whether the parts are Gaussian themselves; what the mean of another makes of its
            second moment, that has taken along.
        cross: relative variance of the sum's second moment that products of both parts make.
        steep: square of the slope of all that was put on the first part, at its nodes (nodes,).
    """

    z: Tensor
    first: Wander
    second: Wander
    moved: Tensor
    by: float
    alike: Tensor
    open: tuple[float, float]
    straight: tuple[bool, bool]
    cross: float
    steep: Tensor

    def together(self, function: Elementwise) -> Together:
        """Follow a function of the one Gaussian."""
        found = self._coefficients(function(self.z).square(), len(self.alike))
        second, moved = float(found[0, 0]), float(mean_of(function(self.moved).square()))
        if not second > 0:
            return Together(0.0, 0.0)
        lines = [part * own for part, own in zip(self.open, self.straight, strict=True)]
        slope = math.log(moved / second) / self.by
        return Together(self._left(found / second, lines), slope)

    def open_mean(self, function: Elementwise) -> float:
        """Return what is not known of the mean of E[f_a·f_b] over all pairs of points."""
        return self._left(self._coefficients(function(self.z), len(self.alike)), self.open)

    def likeness(self, function: Elementwise, after: Wander) -> dict[str, Tensor]:
        """Return the likeness of different f(z) by class of pairs.

        Args:
            function: f.
            after: whose lengths the points have.
        """
        values = function(self.z)
        terms = self._coefficients(values, _TERMS).square() / mean_of(values.square())
        # What the series leave out stands in their last term, so that ρ = 1 is exact.
        terms[-1, -1] += max(1 - float(terms.sum()), 0.0)
        long = lengths(after)

        def of(name: str) -> Tensor:
            one, other = getattr(self.first, name), getattr(self.second, name)
            total = torch.zeros_like(one)
            for row in terms.flip(0):
                total = total * one + series(row, other)
            return total * long.get(name, 1.0)

        return {name: of(name) for name in PAIRS}

    def _coefficients(self, values: Tensor, orders: int) -> Tensor:
        """Expand in Hermite polynomials of both Gaussians: (nodes, nodes) to (orders, orders)."""
        table = _weighted(len(self.z), orders)
        return table @ values @ table.T

    def _left(self, coefficients: Tensor, lines: Sequence[float]) -> float:
        """Add up what is not known: lines, and all but the squares of either Gaussian alone."""
        alike = self.alike.clone()
        alike[0, 0] = alike[0, 2] = alike[2, 0] = 0.0
        alike[1, 0], alike[0, 1] = lines
        return float((coefficients.square() * alike).sum())

    def passed(self, slope: Elementwise) -> float:
        """Return E[f′²·g′²]/(E[f′²]·E[g′²]), of f on the sum and g on its first part.

        Args:
            slope: f′, as a function of the one Gaussian.
        """
        square = slope(self.z).square()
        both, first = mean_of(square * self.steep[:, None]), self.steep @ normal(len(self.steep))
        alone = float(mean_of(square) * first)
        return float(both) / alone if alone > 0 else 1.0


@cache
def _weighted(count: int, orders: int) -> Tensor:
    """Return Hermite polynomials at nodes, times their probabilities (orders, nodes)."""
    return hermite(nodes(count), orders) * normal(count)


def nodes(count: int) -> Tensor:
    """Return evenly spaced values of a standard normal number."""
    return torch.linspace(-_REACH, _REACH, count, dtype=torch.float64)


def normal(count: int) -> Tensor:
    """Return the probabilities of as many nodes."""
    return torch.softmax(nodes(count).square() / -2, dim=0)


def mean_of(values: Tensor) -> Tensor:
    """Average over two independent Gaussians; (nodes, nodes) to a number."""
    weights = normal(len(values))
    return weights @ values @ weights
