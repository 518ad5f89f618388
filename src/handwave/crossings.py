"""Sums of two Gaussian parts, or of what functions made of them: what both make together."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from handwave.quadrature import Elementwise


@dataclass(frozen=True)
class Crossed:
    """Hold the one Gaussian that a sum is a function of, over the two that it is made of.

    Args:
        z: of the sum, at nodes of both, evenly spaced and equally far out (nodes, nodes).
        alike: averages over all pairs of points of rho_1^j times rho_2^k (orders, orders).
        reach: how far out the nodes are.
    """

    z: Tensor
    alike: Tensor
    reach: float = 8.0

    def beyond(self, function: Elementwise, mean: float, std: float) -> float:
        """Return Cov(f_a^2, f_b^2)/E[f^2]^2, but for lines and squares of either Gaussian alone."""
        nodes = torch.linspace(-self.reach, self.reach, len(self.z), dtype=torch.float64)
        rows = [torch.ones_like(nodes), nodes]
        for k in range(1, len(self.alike) - 1):
            rows.append((nodes * rows[-1] - math.sqrt(k) * rows[-2]) / math.sqrt(k + 1))
        hermite = torch.stack(rows) * torch.softmax(-nodes * nodes / 2, dim=0)
        found = hermite @ function(mean + std * self.z).square() @ hermite.T
        terms = (found / found[0, 0]).square() * self.alike
        terms[0, :3] = terms[:3, 0] = 0.0
        return float(terms.sum())
