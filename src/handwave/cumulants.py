"""The law of a log, known by three cumulants: that of a product of χ², to which they belong."""

import math
from functools import cache

import torch

from handwave.roots import falling_root

Cumulants = tuple[float, float, float]


def of_log_gamma(variance: float) -> Cumulants:
    """Return the cumulants of log(χ²_ν/ν), the relative variance of χ²_ν/ν being 2/ν."""
    if variance <= 0:
        return 0.0, 0.0, 0.0
    half = torch.tensor(1 / variance, dtype=torch.float64)
    return (
        float(torch.digamma(half) - half.log()),
        float(torch.polygamma(1, half)),
        float(torch.polygamma(2, half)),
    )


@cache
def quantile(cumulants: Cumulants, p: float) -> float:
    """Invert the law of b + a·log(χ²_ν) that has these three cumulants.

    Exact for one layer; for many it tends to the normal law, as their sum does.
    """
    mean, var, third = cumulants
    if var <= 0:
        return mean
    normal = mean - math.sqrt(2 * var) * float(torch.erfinv(torch.tensor(1 - 2 * p).double()))
    skew = -third / var**1.5
    if skew < 1e-3:  # ν above 10⁶
        return normal
    half = falling_root(lambda h: _skew(h) - skew, 1e-3, 1e7)
    point = math.log(falling_root(lambda x: p - _gamma_cdf(half, x), 1e-300, 50 + 4 * half))
    first, second, _ = of_log_gamma(1 / half)
    scale = math.sqrt(var / second)
    return mean + scale * (point - math.log(half) - first)


def _skew(half: float) -> float:
    """Return −κ₃/κ₂^1.5 of log Γ(half): it falls from 2 to 0."""
    _, var, third = of_log_gamma(1 / half)
    return -third / var**1.5


def _gamma_cdf(half: float, x: float) -> float:
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (half, x))
    return float(torch.special.gammainc(a, b))
