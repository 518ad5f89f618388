"""Units whose size a norm over the batch has settled: no point is as far out as a Gaussian's."""

import math

import torch
from torch import Tensor

from handwave.activations import activation_moments
from handwave.moments import Moments
from handwave.quadrature import Elementwise

_ANGLES = 2000  # on each side of the middle
_FEWEST = 1.05  # dimensions; of one, a coordinate is 1 or −1
_MANY = 1e4  # dimensions, whose coordinates are as good as Gaussian
_NEVER = 1e-20  # probability of what is left out, where f may be too large
# Square lengths, over their average, at which a function is looked at.
_LENGTHS = torch.logspace(-6, 3, 271, dtype=torch.float64)
_LEAST = 1e-4  # smaller differences move no moment by a digit that anybody sees


def settle(fn: Elementwise, law: Moments, unlike: float) -> tuple[float, float]:
    """Return by how much E[f(z)] moves, and by what E[f(z)²] is multiplied, if z is settled.

    n Gaussian numbers over their own root mean square are a direction in n dimensions, drawn at
    random: z/√n is the sine of an angle, whose density is in proportion to cosⁿ⁻².

    Args:
        fn: elementwise.
        law: mean and variance of z.
        unlike: −2/(n + 2), by which E[z⁴] falls short of a Gaussian's, relative; 0 for Gaussians.
    """
    if unlike > -_LEAST:
        return 0.0, 1.0
    z, weights = _direction(-2 * (1 + unlike) / unlike)
    y = fn(law.mean + law.std * z)
    gaussian = activation_moments(fn, law)
    second = float(weights @ y**2) / (gaussian.second_moment or 1.0)
    return float(weights @ y) - gaussian.mean, second


def of_lengths(fn: Elementwise, mean: float, var: Tensor, settled: float) -> Tensor:
    """Return E[f(z)] and E[f(z)²] of settled z, of any number of variances.

    Args:
        fn: elementwise.
        mean: of every z.
        var: of every z, any shape.
        settled: relative variance of the mean square that a norm over many z has settled: 2/n.

    Returns:
        Shape (2, *var.shape).
    """
    whole = float(var.mean())
    z, weights = _direction(2 / max(settled, _LEAST))
    y = fn(mean + (whole * _LENGTHS).sqrt()[:, None] * z)
    # Over the variance, the second moment of what is homogeneous is a constant.
    table = torch.stack([y @ weights, (y * y) @ weights / _LENGTHS])
    length = (var / whole).clamp(_LENGTHS[0], _LENGTHS[-1])
    place = (length / _LENGTHS[0]).log() / (_LENGTHS[1] / _LENGTHS[0]).log()
    first = place.long().clamp(max=len(_LENGTHS) - 2)
    found = torch.lerp(table[:, first], table[:, first + 1], place - first)
    return torch.stack([found[0], found[1] * length])


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
    steps = (torch.arange(_ANGLES, dtype=torch.float64) + 0.5) / _ANGLES
    # Below n = 2 most are near the ends: angles from there, by a power that spreads them evenly.
    power = max(1 / (n - 1), 1.0)
    ends = math.pi / 2 * steps**power
    weights = torch.softmax((n - 2) * ends.sin().log() + (power - 1) * steps.log(), dim=0) / 2
    z = math.sqrt(n) * ends.cos()
    return torch.cat([-z, z]), weights.repeat(2)
