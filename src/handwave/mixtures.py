"""A Gaussian part and one that is not, added up: the sum as a function of one Gaussian."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from torch import Tensor

from handwave.lengths import lengths
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.wandering import PAIRS, Wander

# Out to so many deviations the function is a polynomial of so many terms, which may be off by so
# much of the sum's deviation; beyond, it is a line.
_REACH, _TERMS, _ROUGH = 8.0, 96, 0.01
_LOOKS = 101  # places between which that is looked for
_HALVINGS = 45  # of what a quantile is searched in
_VALUES = 2001  # of likeness, in a table


def of_sum(values: Tensor, chances: Tensor, std: float) -> Elementwise | None:
    """Return the function of a standard normal number that has the law of a sum.

    Args:
        values: of one part.
        chances: their probabilities.
        std: of the other part, a Gaussian of mean 0.

    Returns:
        The quantiles of the sum, at the probability that the normal number stays below z; None
        where they have too sharp a bend for a polynomial.
    """

    def quantiles(z: Tensor) -> Tensor:
        # From the nearer end, so that no probability is 1 but for what float64 has no room for.
        side = torch.where(z > 0, -1.0, 1.0).double()
        wanted = torch.special.log_ndtr(side * z)
        low, high = values.min() + std * (z - 1), values.max() + std * (z + 1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            away = torch.special.log_ndtr(side[:, None] * (middle[:, None] - values) / std)
            found = torch.logsumexp(chances.log() + away, dim=1)
            short = (found < wanted) == (side > 0)
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (low + high) / 2

    made = Chebyshev.interpolate(
        lambda z: quantiles(torch.from_numpy(z)).numpy(), _TERMS, domain=[-_REACH, _REACH]
    )
    looks = torch.linspace(-_REACH, _REACH, _LOOKS, dtype=torch.float64)
    exact, weights = quantiles(looks), torch.softmax(looks * looks / -2, dim=0)
    var = float(weights @ exact.square() - (weights @ exact) ** 2)
    off = float(weights @ (exact - torch.from_numpy(made(looks.numpy()))).square())
    return _with_lines(made) if off <= _ROUGH**2 * var else None


def _with_lines(made: Chebyshev) -> Elementwise:
    """Go on beyond both ends of a polynomial as it ends."""
    low, high = (float(made.deriv()(end)) for end in (-_REACH, _REACH))

    def put(z: Tensor) -> Tensor:
        inside = z.clamp(-_REACH, _REACH)
        slope = torch.where(z < inside, low, high)
        return torch.as_tensor(made(inside.numpy())) + slope * (z - inside)

    return put


@dataclass(frozen=True)
class Below:
    """Turn how alike the values of a function are into how alike its Gaussians are.

    Args:
        series: of the function, which rises.
    """

    series: Shaping

    def of(self, likeness: Tensor) -> Tensor:
        """Return the likeness of standard normal numbers."""
        made, rho = self._table
        return torch.as_tensor(np.interp(likeness.numpy(), made.numpy(), rho.numpy()))

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """Return the likeness of values, from the lowest, and that of the numbers below."""
        rho = torch.linspace(-1, 1, _VALUES, dtype=torch.float64)
        return torch.cummax(self.series.likeness(rho), dim=0).values, rho

    def of_pairs(self, wander: Wander) -> Wander:
        """Return that of all pairs, each of its own length."""
        long = lengths(wander)
        parts = {name: getattr(wander, name) for name in PAIRS}
        whole = {name: long.get(name, torch.ones_like(part)) for name, part in parts.items()}
        return replace(
            wander,
            **{name: whole[name] * self.of(part / whole[name]) for name, part in parts.items()},
        )
