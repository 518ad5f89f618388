"""Units whose size a norm over the batch has settled: no point is as far out as a Gaussian's."""

import math

import torch
from torch import Tensor

from handwave.activations import activation_moments
from handwave.moments import Moments
from handwave.quadrature import Elementwise

_ANGLES = 2000  # on each side of the middle
_FEWEST = 1.05  # dimensions; of one, a coordinate is 1 or −1
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
    z, weights = _direction(max(-2 * (1 + unlike) / unlike, _FEWEST))
    y = fn(law.mean + law.std * z)
    gaussian = activation_moments(fn, law)
    second = float(weights @ y**2) / (gaussian.second_moment or 1.0)
    return float(weights @ y) - gaussian.mean, second


def _direction(n: float) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of a coordinate of a direction in n dimensions, of mean square 1."""
    steps = (torch.arange(_ANGLES, dtype=torch.float64) + 0.5) / _ANGLES
    # Below n = 2 most are near the ends: angles from there, by a power that spreads them evenly.
    power = max(1 / (n - 1), 1.0)
    ends = math.pi / 2 * steps**power
    weights = torch.softmax((n - 2) * ends.sin().log() + (power - 1) * steps.log(), dim=0) / 2
    z = math.sqrt(n) * ends.cos()
    return torch.cat([-z, z]), weights.repeat(2)
