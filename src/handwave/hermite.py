"""Hermite polynomials, orthonormal for a standard normal number."""

import math

import torch
from torch import Tensor


def hermite(t: Tensor, terms: int) -> Tensor:
    """Return the first normalised Hermite polynomials at t: (nodes,) to (terms, nodes)."""
    rows = [torch.ones_like(t), t]
    for k in range(1, terms - 1):
        rows.append((t * rows[-1] - math.sqrt(k) * rows[-2]) / math.sqrt(k + 1))
    return torch.stack(rows)
