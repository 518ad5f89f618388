"""A sum of functions of two independent Gaussians: what both of them make together."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from handwave.hermite import hermite
from handwave.quadrature import Elementwise

_REACH = 8.0  # of the nodes, in standard deviations


@dataclass(frozen=True)
class Together:
    """Hold what a function f of a sum has of both of its parts.

    Args:
        beyond: Cov(f_a², f_b²)/E[f²]² over all pairs of points, but for squares of either
            Gaussian alone.
        slope: d log E[f²] / d log of the sum's second moment, as that wanders.
    """

    beyond: float
    slope: float


@dataclass(frozen=True)
class Crossed:
    """Hold a sum of two parts as the one Gaussian that it is a function of.

    Args:
        z: that, at the nodes of both Gaussians (nodes, nodes).
        moved: z where the second moment of the sum has wandered.
        by: log of that second moment, over what it was.
        alike: averages over all pairs of points of ρ₁ʲ·ρ₂ᵏ, of both correlations; of either
            alone, what is not known of it (orders, orders).
        cross: relative variance of the sum's second moment that products of both parts make.
        steep: square of the slope of what was last put on the first part, at its nodes (nodes,).
    """

    z: Tensor
    moved: Tensor
    by: float
    alike: Tensor
    cross: float
    steep: Tensor

    def together(self, function: Elementwise) -> Together:
        """Follow a function of the one Gaussian."""
        found = self._coefficients(function(self.z).square())
        second, moved = float(found[0, 0]), float(mean_of(function(self.moved).square()))
        if not second > 0:
            return Together(0.0, 0.0)
        return Together(self._open(found / second), math.log(moved / second) / self.by)

    def open_mean(self, function: Elementwise) -> float:
        """Return what is not known of the mean of E[f_a·f_b] over all pairs of points."""
        return self._open(self._coefficients(function(self.z)))

    def _coefficients(self, values: Tensor) -> Tensor:
        """Expand in Hermite polynomials of both Gaussians: (nodes, nodes) to (orders, orders)."""
        table = hermite(nodes(len(self.z)), len(self.alike)) * normal(len(self.z))
        return table @ values @ table.T

    def _open(self, coefficients: Tensor) -> float:
        terms = coefficients.square() * self.alike
        terms[0, 0] = terms[0, 2] = terms[2, 0] = 0.0
        return float(terms.sum())

    def passed(self, slope: Elementwise) -> float:
        """Return E[f′²·g′²]/(E[f′²]·E[g′²]), of f on the sum and g on its first part.

        Args:
            slope: f′, as a function of the one Gaussian.
        """
        square = slope(self.z).square()
        both, first = mean_of(square * self.steep[:, None]), self.steep @ normal(len(self.steep))
        alone = float(mean_of(square) * first)
        return float(both) / alone if alone > 0 else 1.0


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
