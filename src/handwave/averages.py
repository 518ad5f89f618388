"""What is left of a window of positions: a function of their average, and a rest."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from handwave.pools import Pool
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Signal
from handwave.units import Units
from handwave.windowed import Windowed

_STEP = 1e-3  # of log Var(z), for a derivative by it

# Points and weights for an average over a standard normal number.
NORMAL = torch.linspace(-6, 6, 96, dtype=torch.float64)  # without 0, where kinks are
WEIGHTS = torch.softmax(-NORMAL * NORMAL / 2, dim=0)


class Slopes(NamedTuple):
    """Hold the slopes of log E[y²], and what is known of how far it stands off.

    Args:
        size: by log Var(z).
        turned: by log Var(z̄) of the same z.
        tilt: by the mean of z, in standard deviations; squared.
        of_points: relative variance that the mean over units makes at least, as points have it.
    """

    size: float
    turned: float
    tilt: float
    of_points: float = 0.0


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
        windows = Windowed(pool, before)
        wander, own = windows.averaged(), windows.left
        if own <= pool.least:  # of what nearly cancels, likeness is but noise
            wander = wander.mapped(lambda likeness: likeness.clamp(-1, 1))
        of_all, of_averages = (each.mean(torch.square) for each in (before, wander))
        more = of_averages / of_all if of_all else 0.0
        # At least by what they are of the z.
        told = _told(own, own * own * more, len(pool.sizes))
        says = min(max(told, min(more, 1 / more)), 1.0) if more else 0.0
        known = units.known * says * of_averages / (of_all or 1.0)
        units = replace(units, wander=wander, known=known, known_mean=units.known_mean / own)
        settled = known if units.settled else 0.0
        units = replace(units, settled=settled, unsure=units.unsure * says, of_inputs=0.0)
        units = replace(units, covariance=None, around=None)
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
        made = Shaping.of(
            lambda z: function(z[..., None] + rest) @ weights,
            law.mean,
            law.std * math.sqrt(self.left),
        )
        return replace(made, at=None)  # a longer window has a larger rest as well

    def followed(
        self,
        after: Signal,
        series: Shaping,
        slopes: Slopes,
        size: float = 1.0,
        bent: float | None = None,
    ) -> Signal:
        """Return a signal that knows how far its second moment stands off, and its units.

        What is left of a window is taken for g(z̄) = E[y | z̄], and a rest that is independent in
        every window.

        Args:
            after: what is left, with the likeness of windows.
            series: of g.
            slopes: of E[y²].
            size: a factor on g².
            bent: variance of the average of a unit's f(z), beyond line and square of z; by default
                rests are as independent in different windows as they are in one.
        """
        units, before, second = self.units, self.base.units, after.moments.second_moment
        still = replace(units, wander=replace(units.wander, cumulants=(0.0, 0.0, 0.0)))
        fresh, part = still.through(series), min(series.second * size / (second or 1.0), 1.0)
        # Line and square are those of y², not of g² alone.
        squares = series.squares.clone()
        squares[1] = slopes.tilt * self.left * series.second**2 / (part**2 or 1.0)
        rough = replace(series, squares=squares, slope=0.0, at=None)
        beyond = max(still.through(rough).cumulants[1] * part**2, slopes.of_points)
        rest = self._rest(after, part, float(series.values[0]) * size / (second or 1.0), bent)
        # The likeness that was added up is that of one draw, beside that of the z.
        noise = units.wander.noise * (1 - self.says)
        drawn = 2 * slopes.turned**2 * noise * units.wander.mean(torch.square)
        own = (rest + self._sizes(slopes) / before.phases) / before.count
        # Without the mean of all points, it varies at least as that of independent numbers does.
        alone = (1 - after.wander.mean(torch.clone, power=1.0)) ** 2 / before.count
        own_noise = max(after.wander.own_noise, fresh.own_noise * part**2, alone)
        wander = replace(
            after.wander,
            cumulants=before.wander.scaled(slopes.size).plus(beyond + own + drawn).cumulants,
            lengths=fresh.lengths * part**2,
            noise=min(max(after.wander.noise, fresh.noise * part**2), 1.0),
            own_noise=min(own_noise, 1.0),
        )
        return replace(
            after, wander=wander, units=units, function=None, base=None, taken=0.0, largest=None
        )

    def _rest(self, after: Signal, part: float, of_mean: float, bent: float | None) -> float:
        """Return the relative variance that the rest of a window makes in one unit.

        Args:
            after: what is left.
            part: of its second moment, that of g.
            of_mean: likewise, that of the mean of g.
            bent: variance of the mean of all rests; None where they are independent.
        """
        share, rest = after.wander.share, 1 - part
        if bent is None:
            return share * (2 * rest**2 + 4 * rest * part)
        of_mean = min(max(of_mean, 0.0), part)
        own = share * (2 * rest**2 + 4 * rest * (part - of_mean))
        return own + 4 * of_mean * bent / (after.moments.second_moment or 1.0)

    def _sizes(self, slopes: Slopes) -> float:
        """Return the relative variance that sizes of z and of z̄ make, which go together in part."""
        before = self.base.units
        of_all, of_averages = (each.wander.of_one_unit for each in (before, self.units))
        open_ = max(of_all - (of_all if before.settled else before.known), 0.0)
        together = math.sqrt(self.says * of_averages / of_all) if of_all else 0.0
        by_all = slopes.size + slopes.turned * (together - 1)
        return by_all**2 * open_ + slopes.turned**2 * of_averages * (1 - self.says)


def _told(left: float, square: float, axes: int) -> float:
    """Return what share of the differences among the sizes of units those of averages explain.

    Of waves that make up the likeness of maps, windows leave a share t each, and units differ by
    the waves that they see: the share is E[t]²/E[t²]. Of likeness that falls as exp(−d²), and
    windows of that shape, both are powers of 1 + r and of 1 + 2r, r one number. Of likeness with a
    longer tail, more is open: by about the square of what windows leave open of it, over what they
    leave open of its square.

    Args:
        left: what averages over both ends of a pair leave of likeness.
        square: E[t²], what they leave of its square.
        axes: of the map.
    """
    of_axis = min(max(square, 0.0), 1.0) ** (2 / axes)
    open_ = 1 - (4 * of_axis / (1 + of_axis) ** 2) ** (axes / 2)
    tail = max((1 - left) / (1 - square), 1.0) if square < 1 else 1.0
    return max(1 - open_ * tail**2, square)


def slopes_of(second: Callable[[float, float], float], turned: float) -> Slopes:
    """Return the slopes of E[y²].

    Args:
        second: E[y²], if Var(z) is multiplied by a factor, and the mean of z moved by so many
            standard deviations.
        turned: its slope by Var(z̄) of the same z.
    """
    before = second(1.0, 0.0)
    if not before > 0:
        return Slopes(1.0, turned, 0.0)
    size, tilt = (
        math.log(second(1 + by, by_mean) / before) / _STEP
        for by, by_mean in ((_STEP, 0.0), (0.0, _STEP))
    )
    return Slopes(size, turned, tilt**2)


def common(signal: Signal, after: Signal) -> float:
    """Return what two units have in common: as much less as one is left to vary by."""
    before, law = signal.moments, after.moments
    left = law.var / before.var if before.var else 0.0
    return law.mean**2 + (signal.common - before.mean**2) * left
