"""The largest of numbers that are alike in pairs: their average, and how far it is above that."""

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from handwave.averages import NORMAL, WEIGHTS, Averages
from handwave.joint import log_normal
from handwave.mixtures import of_sum
from handwave.moments import Moments
from handwave.pools import Pool
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Signal

_DIFFERENCE = 1e-5  # of the rms of z, for a slope

# What it errs by to take positions for alike in pairs, relative: for each unit by which the root of
# how many there are is above 2; and of what the largest of smooth images is more by than others:
# these rise towards an edge of a window.
_MODEL_ERROR, _SMOOTH_ERROR = 0.005, 0.25

# What the shape of the largest is looked at by.
_DRAWS, _NODES = 1 << 13, 64
_MOST = 1 << 10  # numbers of which the shape is looked at; of more, it hardly changes


@cache
def above_mean(count: int) -> Tensor:
    """Return equally likely values of max(e) − mean(e), e independent standard normal numbers.

    The mean of e is independent of what the e have beside it. The shape is that of draws from a
    seed of their own; mean and variance are those of the integrals over the density of max(e).

    Args:
        count: how many e.
    """
    if count < 2:
        return torch.zeros(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(min(count, _MOST), _DRAWS, generator=generator, dtype=torch.float64)
    draws = (e.amax(0) - e.mean(0)).sort().values
    nodes = draws.reshape(_NODES, -1).mean(1)
    mean, var = _moments(count)
    return mean + (nodes - nodes.mean()) * math.sqrt(
        (var - 1 / count) / float(nodes.var(0, correction=0))
    )


def _moments(count: int) -> tuple[float, float]:
    """Return mean and variance of the largest of so many standard normal numbers."""
    z = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    below = torch.special.ndtr(z) ** count
    steps, middle = below.diff(), (z[1:] + z[:-1]) / 2
    mean = float(steps @ middle)
    return mean, float(steps @ middle.square()) - mean * mean


@dataclass(frozen=True)
class InPairs:
    """Know y = max f(z_p) = f(max z_p) over a window, f rising.

    The z of a window are taken to be alike in pairs, all as much: max z_p is their average z̄ and
    √(1 − ρ)·(max(e) − mean(e)) beside it, e independent standard normal numbers.

    Args:
        function: f.
        left: what is left of the variance of z in z̄.
        apart: √(1 − ρ).
        lengths: equally likely factors on the standard deviation of z.
    """

    function: Elementwise
    left: float
    apart: float
    lengths: Tensor

    @classmethod
    def of(cls, function: Elementwise, averages: Averages, count: float) -> "InPairs":
        """Take from averages how alike the z are.

        Args:
            function: f.
            averages: z̄.
            count: positions of a window.
        """
        lengths = log_normal(averages.base.units.unlike)
        return cls(function, averages.left, _apart(averages.left, count), lengths)

    def turned(self, factor: float, count: float) -> "InPairs":
        """Let z̄ vary so much more, and the z as much as before."""
        left = min(self.left * factor, 1.0)
        return replace(self, left=left, apart=_apart(left, count))

    def moments(self, count: float, mean: float, second: float) -> tuple[float, float]:
        """Return E[y] and E[y²].

        Args:
            count: positions of the window.
            mean: E[z].
            second: E[z²].
        """
        y = self.function(self._z(count, mean, second))
        return _expected(y), _expected(y.square())

    def slopes(self, count: float, mean: float, second: float) -> float:
        """Return E[f'(max z)²]."""
        step = _DIFFERENCE * math.sqrt(second)

        def square(z: Tensor) -> Tensor:
            return ((self.function(z + step) - self.function(z - step)) / (2 * step)).square()

        return self.expected(square, count, mean, second)

    def expected(self, fn: Elementwise, count: float, mean: float, second: float) -> float:
        """Average a function of max z."""
        return _expected(fn(self._z(count, mean, second)))

    def law(self, count: float, law: Moments) -> Elementwise | None:
        """Return the function of one standard normal number that has the law of y."""
        above = self.apart * above_mean(round(count))
        over = of_sum(above, torch.full_like(above, 1 / len(above)), math.sqrt(self.left))
        return over and (lambda z: self.function(law.mean + law.std * over(z)))

    def given(self, averages: Averages, second: float, count: float) -> Shaping:
        """Expand E[y | z̄] in z̄.

        Args:
            averages: z̄.
            second: E[y²] as it is: the part that goes with z̄ is what it is here.
            count: positions of a window.
        """
        law = averages.base.moments
        above = self.apart * law.std * above_mean(round(count))
        series = averages.given(self.function, above, torch.full_like(above, 1 / len(above)))
        modelled = self.moments(count, law.mean, law.second_moment)[1]
        return series.times(second / modelled) if modelled else series

    def by_window(self, pool: Pool, base: Signal) -> tuple[Tensor, Tensor]:
        """Return E[y] and E[y²] of each window; (*map)."""
        maps = (part.expand(pool.sizes)[None] for part in (base.mean, base.second))
        table = torch.stack([1 / pool.alone, *(pool.of(part)[0] for part in maps)])
        # Windows that differ by less than 1 % are taken together.
        size = float(base.second.mean()) ** 0.5
        finest = torch.tensor([1.0, 0.01 * size, 0.01 * size * size], dtype=torch.float64)
        alike, place = torch.unique(
            (table.reshape(3, -1).T / finest).round(), dim=0, return_inverse=True
        )
        found = [self.moments(*row) for row in (alike * finest).tolist()]
        mean, second = torch.tensor(found, dtype=torch.float64)[place].T
        return mean.reshape(table[0].shape), second.reshape(table[0].shape)

    def error(self, signal: Signal, after: Signal, count: float) -> float:
        """Return what E[y²] is off by, relative, where positions are not alike in pairs."""
        grown = max(1 - signal.moments.second_moment / after.moments.second_moment, 0.0)
        many = _MODEL_ERROR * max(math.sqrt(count) - 2, 0.0)
        return many + _SMOOTH_ERROR * grown * (1 - self.apart**2)

    def _z(self, count: float, mean: float, second: float) -> Tensor:
        """Return values of max z; (lengths, z̄, beside)."""
        std = self.lengths * math.sqrt(max(second - mean * mean, 0.0))
        above = self.apart * above_mean(round(count))
        return mean + std[:, None, None] * (math.sqrt(self.left) * NORMAL[:, None] + above)


def _apart(left: float, count: float) -> float:
    """Return √(1 − ρ), so much being left of the variance of so many positions."""
    return math.sqrt(min(max(1 - left, 0.0) / max(1 - 1 / count, 1e-9), 1.0))


def _expected(y: Tensor) -> float:
    return float(WEIGHTS @ y.mean((0, 2)))
