"""What is left of a window of positions: a function of their average, and a rest."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handwave.pools import Pool
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Signal
from handwave.units import Units

_STEP = 1e-3  # of log Var(z), for a derivative by it

# Points and weights for an average over a standard normal number.
NORMAL = torch.linspace(-6, 6, 96, dtype=torch.float64)  # without 0, where kinks are
WEIGHTS = torch.softmax(-NORMAL * NORMAL / 2, dim=0)


@dataclass(frozen=True)
class Averages:
    """Hold the averages z̄ of the Gaussian z of a window, Gaussian again.

    Args:
        base: the signal of the z.
        units: the z̄.
        left: what is left of the variance of z.
        says: what share of the differences among the sizes of units these of the z̄ explain.
    """

    base: Signal
    units: Units
    left: float
    says: float

    @classmethod
    def of(cls, pool: Pool, base: Signal) -> "Averages":
        """Average over windows, and keep what is known of the units' size as far as it says."""
        units, law = base.units, base.moments
        before = units.wander
        wander, own = pool.averaged(before)
        if own <= pool.least:  # of what nearly cancels, likeness is but noise
            wander = wander.mapped(lambda likeness: likeness.clamp(-1, 1))
        of_all, of_averages = (each.mean(torch.square) for each in (before, wander))
        says = min(own * own * of_averages / of_all, 1.0) if of_all else 0.0
        known = units.known * says * of_averages / (of_all or 1.0)
        units = replace(units, wander=wander, known=known, known_mean=units.known_mean / own)
        settled = known if units.settled else 0.0
        units = replace(units, settled=settled, unsure=units.unsure * says, of_inputs=0.0)
        share = law.mean**2 / (law.second_moment or 1.0)
        left = min(max(own - share, 0.0) / (1 - share or 1.0), 1.0)
        return cls(base, units, left, says)

    def given(self, function: Elementwise, rest: Tensor, weights: Tensor) -> Shaping:
        """Expand E[f(z̄ + d)] in z̄.

        Args:
            function: f.
            rest: values of d.
            weights: their probabilities.
        """
        law = self.base.moments
        return Shaping.of(
            lambda z: function(z[..., None] + rest) @ weights,
            law.mean,
            law.std * math.sqrt(self.left),
        )

    def followed(self, after: Signal, series: Shaping, slope: float, size: float = 1.0) -> Signal:
        """Return a signal that knows how far its second moment stands off, and its units.

        What is left of a window is taken for g(z̄) = E[y | z̄], and a rest that is independent in
        every window.

        Args:
            after: what is left, with the likeness of windows.
            series: of g.
            slope: d log E[y²] / d log Var(z).
            size: a factor on g².
        """
        units, before, second = self.units, self.base.units, after.moments.second_moment
        still = replace(units, wander=replace(units.wander, cumulants=(0.0, 0.0, 0.0)))
        fresh, part = still.through(series), min(series.second * size / (second or 1.0), 1.0)
        of_rest = 2 * (1 - part) ** 2 + 4 * (1 - part) * part
        # The likeness that was added up is that of one draw.
        steep = part * series.slope
        drawn = 2 * steep**2 * units.wander.noise * units.wander.mean(torch.square)
        # A unit of large weights is large everywhere, of which the averages tell a share.
        open_ = max(before.wander.of_one_unit - before.known, 0.0) * (1 - self.says)
        sizes = max(slope**2 - steep**2, 0.0) * open_ / before.phases
        own = (after.wander.share * of_rest + sizes) / before.count
        off = before.wander.scaled(slope).plus(fresh.cumulants[1] * part**2 + own + drawn)
        wander = replace(
            after.wander,
            cumulants=off.cumulants,
            lengths=fresh.lengths * part**2,
            noise=min(max(after.wander.noise, fresh.noise * part**2), 1.0),
        )
        return replace(
            after, wander=wander, units=units, function=None, base=None, taken=0.0, largest=None
        )


def slope_of_square(second: Callable[[float], float]) -> float:
    """Return d log E[y²] / d log Var(z), E[y²] being a function of a factor on Var(z)."""
    before = second(1.0)
    return math.log(second(1 + _STEP) / before) / _STEP if before > 0 else 1.0


def common(signal: Signal, after: Signal) -> float:
    """Return what two units have in common: as much less as one is left to vary by."""
    before, law = signal.moments, after.moments
    left = law.var / before.var if before.var else 0.0
    return law.mean**2 + (signal.common - before.mean**2) * left
