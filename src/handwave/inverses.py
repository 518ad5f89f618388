"""What dividing by a size does on average: sizes are sums of squares, and small ones count most."""

import math

import torch
from torch import Tensor

from handwave.roots import falling_root

_LEAST = 1e-7  # relative variances below are none: float32 leaves so much of a mean of squares
_MANY = 100.0  # numbers, beyond which it does not matter how unequal they are

_T = torch.logspace(-8, 8, 4001, dtype=torch.float64)  # where the transform is looked at


def inverse(
    var: float, eps: float, unlike: float, rank: float | None = None
) -> tuple[float, tuple[float, float]]:
    """Follow 1/(v + eps), v = Σ λ_i·g_i² with Gaussian g_i and Σ λ_i = var.

    With the transform φ(t) = E[exp(−t·v)] = Π (1 + 2λ_i·t)^(−1/2), E[1/(v + eps)] is the integral
    of φ(t)·exp(−eps·t), and E[1/(v + eps)²] that of t·φ(t)·exp(−eps·t).

    Args:
        var: E[v].
        eps: what is added to it.
        unlike: relative variance of v.
        rank: how many λ there are, each smaller than the one before by the same factor; by
            default all are equal, as many as make that variance.

    Returns:
        Its expectation; and its relative variance, in proportion to v and besides that.
    """
    if not var > 0 or unlike < _LEAST:
        return 1 / ((var + eps) or math.inf), (0.0, 0.0)
    part = eps / var
    log = -part * _T + _log_transform(unlike, rank)
    # Over log(t), by the trapezoid rule; in front of the first t, the integrand is 1.
    step = math.log(_T[1] / _T[0])
    first, second = (float((log + power * _T.log()).exp().sum()) * step for power in (1, 2))
    first += float(_T[0]) * (1 - step / 2)
    mean = first / var
    spread = max(second / first**2 - 1, 0.0)
    with_v = (1 - part * first - first) ** 2 / first**2 / unlike
    return mean, (min(with_v, spread), max(spread - with_v, 0.0))


def _log_transform(unlike: float, rank: float | None) -> Tensor:
    """Return log φ at every t, for Σ λ_i = 1."""
    count = 2 / unlike
    if rank is None or count > min(_MANY, 0.99 * rank):
        return -count / 2 * torch.log1p(2 * _T / count)
    each = _falling(count, round(min(rank, 8 * _MANY)))
    return -torch.log1p(2 * _T[:, None] * each).sum(1) / 2


def _falling(count: float, rank: int) -> Tensor:
    """Return numbers that fall by one factor and add up to 1, their squares to 1/count."""
    places = torch.arange(rank, dtype=torch.float64)

    def unequal(factor: float) -> float:
        each = factor**places
        return float(each.square().sum()) * count - float(each.sum()) ** 2

    each = falling_root(unequal, 1e-9, 1.0) ** places
    return each / each.sum()
