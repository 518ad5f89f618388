"""Units whose size a norm over the batch has settled: no point is as far out as a Gaussian's."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from handwave.centring import Centre, around, within
from handwave.moments import Moments
from handwave.quadrature import Elementwise
from handwave.units import Units
from handwave.wandering import Wander

_FEWEST_ANGLES, _ANGLES = 400, 2000  # on each side of the middle
_FEWEST = 1.05  # dimensions; of one, a coordinate is 1 or −1
_MANY = 1e4  # dimensions, whose coordinates are as good as Gaussian
_NEVER = 1e-20  # probability of what is left out, where f may be too large
_LEAST = 1e-4  # smaller differences move no moment by a digit that anybody sees
# Shares are told apart from the first, of 1/n, to the second, in steps of their logarithm.
_SMALLEST, _LARGEST, _SHARE_STEP = 1e-4, 0.999, 0.1
_STEP, _SHORTEST = 0.08, 1e-9  # of log Var(z), from one table entry to the next; over the longest


def of_settled(
    fn: Elementwise, mean: float, var: Tensor, settled: float, shares: Tensor | None = None
) -> Tensor:
    """Return E[f(z)] and E[f(z)²] of settled z, of any number of variances.

    Of the mean square v that a norm divides by, the point itself makes a share s with its own
    Gaussian g, and others the rest: z² = q·g²/(s·g² + (1 − s)·χ²ₘ/m), where v has the relative
    variance 2/n = 2s² + 2(1 − s)²/m. Of evenly spread points s is 1/n: a direction in n dimensions.

    Args:
        fn: elementwise.
        mean: of every z.
        var: of every z, q; any shape.
        settled: relative variance of the mean square that a norm over many z has settled: 2/n.
        shares: s of every z, in the shape of var; by default 1/n.

    Returns:
        Shape (2, *var.shape).
    """
    n = min(max(2 / max(settled, _LEAST), _FEWEST), 2 / _LEAST)
    shares = torch.full_like(var, 1 / n) if shares is None else shares
    high = max(float(var.max()), torch.finfo(var.dtype).tiny / _SHORTEST)
    var = var.clamp_min(high * _SHORTEST)
    steps = ((n * shares).clamp(_SMALLEST, n * _LARGEST).log() / _SHARE_STEP).round()
    found = torch.empty(2, *var.shape, dtype=var.dtype)
    for step in steps.unique().tolist():
        there = steps == step
        z, weights = _of_share(min(math.exp(step * _SHARE_STEP) / n, _LARGEST), n)
        some = weights > _NEVER
        found[:, there] = _by_table(fn, mean, var[there], z[some], weights[some])
    return found


def _by_table(fn: Elementwise, mean: float, var: Tensor, z: Tensor, weights: Tensor) -> Tensor:
    """Return E[f] and E[f²] at each of some variances, (2, variances)."""
    low = float(var.min())
    place = (var / low).log() / _STEP
    at = low * (_STEP * torch.arange(int(place.max()) + 2, dtype=var.dtype)).exp()
    y = fn(mean + at.sqrt()[:, None] * z)
    # Over the variance, the second moment of what is homogeneous is a constant.
    table = torch.stack([y @ weights, y * y @ weights / at])
    first = place.long()
    found = torch.lerp(table[:, first], table[:, first + 1], place - first)
    return torch.stack([found[0], found[1] * var])


def _of_share(share: float, n: float) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of a point that makes a share of what it is divided by."""
    open_ = 1 / n - share * share
    m = max((1 - share) ** 2 / open_, _FEWEST - 1) if open_ > 1 / _MANY else _MANY
    z, weights = _direction(m + 1)
    square = z * z / (m + 1)  # of a direction: g²/(g² + χ²)
    whole = share * m * square + (1 - share) * (1 - square)
    return z.sign() * (m * square / whole).sqrt(), weights


def of_points(units: Units, var: float) -> tuple[Tensor, Tensor | None]:
    """Return the variance of every point, and what it makes of what a norm divides it by.

    Args:
        units: of all points.
        var: of all of them, pooled.
    """
    of_each, settled = var * units.wander.same.clamp_min(0), units.of_norms  # (points, *map)
    if not settled:
        return of_each, None
    shares = shares_of(units)
    # Of all points together, a norm leaves the mean square that it divides by.
    left = of_settled(lambda z: z, 0.0, of_each, settled, shares)[1].mean()
    return of_each * (of_each.mean() / left), shares


def shares_of(units: Units) -> Tensor | None:
    """Return what each point makes of the mean square that a norm divides it by; (points, *map).

    On average over points as they are 1/n, 2/n the relative variance of that mean square; None
    where points are not told apart.
    """
    if units.wander.ends is None or (units.of_inputs and units.together == math.inf):
        return None
    shares, mean = _shares(units.wander, within if units.of_inputs else around)
    return (shares * (units.of_norms / 2 / mean)).clamp(max=1.0) if mean else None


def taken(units: Units, seen: Wander) -> dict[str, Tensor]:
    """Return by class of pairs what a norm over the batch takes of the square of correlation.

    Of t² of each point, over the mean square v of all: Cov(t_a²/v, t_b²/v) is, by a line around
    v = 1, 2ρ² − 2s_a − 2s_b + 2/n, as 2s is Cov(t², v), and 2/n Var(v): over all pairs nothing.

    Args:
        units: that the norm has settled.
        seen: how alike the points are, as the square is taken of it.
    """
    if not units.settled or seen.ends is None:
        return {}
    shares, mean = _shares(seen, around)
    return Centre(seen, mean, shares.clamp(max=1.0)).of_pairs()


def _shares(wander: Wander, over: Callable[..., Tensor]) -> tuple[Tensor, float]:
    """Return the mean of q_b·ρ² of each point a over some pairs, and that of all points as long."""
    alike = over(wander, torch.square)
    return alike / wander.same.clamp_min(_SHORTEST), float(alike.mean())


def left(fn: Elementwise, law: Moments, unlike: float) -> float:
    """Return what is left of the variance of f(z)² beyond its line and its square, of Gaussians'.

    Args:
        fn: elementwise.
        law: mean and variance of z.
        unlike: relative variance of the mean square that a norm over many z has settled: 2/n.
    """
    if unlike < _LEAST:
        return 1.0
    settled, gaussian = (_beyond_square(fn, law, n) for n in (2 / unlike, _MANY))
    return min(settled / gaussian, 1.0) if gaussian else 1.0


def _beyond_square(fn: Elementwise, law: Moments, n: float) -> float:
    """Return the variance of f(z)² that no a + b·z + c·z² explains."""
    z, weights = _direction(n)
    z, weights = z[weights > _NEVER], weights[weights > _NEVER]
    y, bent = fn(law.mean + law.std * z) ** 2, z * z - 1
    rest = y - weights @ y
    # The law is symmetric: what is odd and what is even in z have nothing in common.
    for each in (z, bent):
        size = float(weights @ each**2)
        rest = rest - each * (float(weights @ (rest * each)) / size if size > _NEVER else 0.0)
    return float(weights @ rest**2)


def _direction(n: float) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of a coordinate of a direction in n dimensions, of mean square 1."""
    n = max(n, _FEWEST)
    # Of many dimensions, most are within 1/√n of the middle.
    count = min(max(_FEWEST_ANGLES, int(15 * math.sqrt(n))), _ANGLES)
    steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    # Below n = 2 most are near the ends: angles from there, by a power that spreads them evenly.
    power = max(1 / (n - 1), 1.0)
    ends = math.pi / 2 * steps**power
    weights = torch.softmax((n - 2) * ends.sin().log() + (power - 1) * steps.log(), dim=0) / 2
    z = math.sqrt(n) * ends.cos()
    return torch.cat([-z, z]), weights.repeat(2)
