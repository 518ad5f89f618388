"""What dividing by a size does on average: sizes are sums of squares, and small ones count most."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from handwave.roots import falling_root
from handwave.wandering import ROUNDING

_MANY = 100.0  # numbers, beyond which it does not matter how unequal they are

_FAR = 1e4  # of eps over v; beyond, hardly anything of v is seen

_SELDOM = 0.005  # probability
_STEEP, _CUT = 3.0, 1.5

_T = torch.logspace(-8, 8, 1601, dtype=torch.float64)  # where the transform is looked at


@dataclass(frozen=True)
class Inverse:
    """Hold what 1/(v + eps) is, for v = Σ λ_i·g_i² with Gaussian g_i.

    With the transform φ(t) = E[exp(−t·v)] = Π (1 + 2λ_i·t)^(−1/2), E[1/(v + eps)] is the integral
    of φ(t)·exp(−eps·t), and E[1/(v + eps)²] that of t·φ(t)·exp(−eps·t).

    Where few numbers make v, the variance is made by values that are hardly ever met: it is that
    of values which one of so many units meets in a draw with probability 1/200.

    Args:
        mean: E[1/(v + eps)].
        with_v: its relative variance, in proportion to v.
        besides: what there is of it besides that.
        flatter: λ_i·E[g_i²/v] are less unequal than λ_i; of Σ λ_i²/(Σ λ_i)², what is left.
    """

    mean: float
    with_v: float = 0.0
    besides: float = 0.0
    flatter: float = 1.0

    @classmethod
    def of(
        cls,
        var: float,
        eps: float,
        unlike: float,
        each: Tensor | None = None,
        units: float = math.inf,
    ) -> "Inverse":
        """Integrate.

        Args:
            var: E[v] = Σ λ_i.
            eps: what is added to v.
            unlike: relative variance of v.
            each: the λ_i, up to a factor; by default all are equal, as many as make that variance.
            units: how many v there are.
        """
        if not var > 0 or unlike < ROUNDING:
            return cls(1 / ((var + eps) or math.inf))
        part = eps / var
        if part > _FAR:  # the series in v/eps
            return cls((1 - 1 / part + (1 + unlike) / part**2) / eps, 1 / part**2)
        each = None if each is None else each / each.sum()
        log = -part * _T + _log_transform(unlike, each)
        # Over log(t), by the trapezoid rule; in front of the first t, the integrand is 1.
        step = math.log(_T[1] / _T[0])
        first, second = ((log + power * _T.log()).exp() * step for power in (1, 2))
        second = float(second[: _met(unlike, each, units)].sum())
        first = float(first.sum()) + float(_T[0]) * (1 - step / 2)
        spread = max(second / first**2 - 1, 0.0)
        with_v = min((1 - part * first - first) ** 2 / first**2 / unlike, spread)
        flatter = 1.0 if each is None else _flatter(each, (log + _T.log()).exp())
        return cls(first / var, with_v, spread - with_v, flatter)


def _log_transform(unlike: float, each: Tensor | None) -> Tensor:
    """Return log φ at every t, for Σ λ_i = 1."""
    if each is None:
        return -torch.log1p(2 * _T * (unlike / 2)) / unlike
    return -torch.log1p(2 * _T[:, None] * each).sum(1) / 2


def _met(unlike: float, each: Tensor | None, units: float) -> int:
    """Return up to which t values of v count that are met, by a saddle point; all, if most are.

    P(v < x) = exp(t·x)·φ(t)/√(2π·t²·K″), where x is the mean of v·exp(−t·v)/φ(t), and K″ its
    variance.
    """
    if each is None:
        x, spread = 1 / (1 + unlike * _T), unlike / (1 + unlike * _T) ** 2
    else:
        part = each / (1 + 2 * _T[:, None] * each)
        x, spread = part.sum(1), 2 * part.square().sum(1)
    log = _T * x + _log_transform(unlike, each) - (2 * torch.pi * _T.square() * spread).log() / 2
    at = int((log > math.log(_SELDOM / units)).sum()) if units < math.inf else len(_T)
    # Where P(v < x) falls as the third power of x or faster, there is nothing to leave out.
    if at == len(_T) or float(_T[at] * x[at]) >= _STEEP:
        return len(_T)
    return int((_CUT / float(x[at]) > _T).sum())


def _flatter(each: Tensor, weights: Tensor) -> float:
    """Return what is left of Σ λ_i² if each λ_i becomes E[λ_i·g_i²/(v + eps)], by the same sum."""
    left = each * (weights[:, None] / (1 + 2 * _T[:, None] * each)).sum(0)
    return float((left / left.sum()).square().sum() / each.square().sum())


def falling(unlike: float, rank: float) -> Tensor | None:
    """Return λ_i that fall as exp(−c·√i), of which Σ λ_i·g_i² has that relative variance.

    Args:
        unlike: relative variance.
        rank: how many there are at most.

    Returns:
        Numbers that add up to 1; None where it does not matter that they are unequal.
    """
    count = 2 / max(unlike, ROUNDING)
    return None if count > min(_MANY, 0.99 * rank) else _falling(count, round(min(rank, 8 * _MANY)))


def _falling(count: float, rank: int) -> Tensor:
    """Return numbers that fall as exp(−c·√i) and add up to 1, their squares to 1/count."""
    places = torch.arange(rank, dtype=torch.float64).sqrt()

    def unequal(factor: float) -> float:
        each = factor**places
        return float(each.square().sum()) * count - float(each.sum()) ** 2

    each = falling_root(unequal, 1e-9, 1.0) ** places
    return each / each.sum()
