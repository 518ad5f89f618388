"""The largest of a window of positions: their average, and how far the largest is above it."""

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from handwave.averages import NORMAL, WEIGHTS, Averages, Slopes, common, slopes_of
from handwave.joint import Joint, log_normal
from handwave.lengths import SHORTEST, lengths, of_pairs
from handwave.mixtures import of_sum
from handwave.moments import Moments
from handwave.neighbourhoods import few
from handwave.pools import Pool
from handwave.positions import Decay
from handwave.quadrature import Elementwise
from handwave.settling import left
from handwave.shaping import Shaping
from handwave.signals import Largest, NoTheoryError, Signal, shaping
from handwave.wandering import PAIRS, Wander
from handwave.windowed import Windowed

# Of E[f²], what a function may fall by and still be taken for one that rises.
_FALL = 0.1

# By how much neighbours may be more alike than others of a window.
_UNLIKE = 0.2

_DIFFERENCE = 1e-5  # of the rms of z, for a slope

# What it errs by to take positions for alike in pairs, relative: for each unit by which the root of
# how many there are is above 2; and of what the largest of smooth images is more by than others:
# these rise towards an edge of a window.
_MODEL_ERROR, _SMOOTH_ERROR = 0.005, 0.25

_DRAWN = 0.003

_ONE, _NOTHING = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

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
class _Largest:
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

    def turned(self, factor: float, count: float) -> "_Largest":
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


def largest(pool: Pool, signal: Signal, function: Elementwise, layer: nn.Module) -> Signal:
    """Follow the largest of each window.

    Writes in the feedback of `signal` which slopes of the activation in front a gradient meets.

    Raises:
        NoTheoryError: f falls, or some positions of a window are much more alike than others.
    """
    base = signal.base or signal
    _check(pool, function, base)
    law, count = base.moments, 1 / float(pool.alone.mean())
    averages = Averages.of(pool, base)
    apart = _apart(averages.left, count)
    of = _Largest(function, averages.left, apart, log_normal(base.units.unlike))
    joint = Joint(pool, base) if few(pool) else None
    mean, second = joint.largest(function) if joint else _by_window(pool, of, base)
    above = apart * law.std * above_mean(round(count))
    series = averages.given(function, above, torch.full_like(above, 1 / len(above)))
    # Alike in pairs or not, the part that goes with the average is what it is of these.
    modelled = of.moments(count, law.mean, law.second_moment)[1]
    series = series.times(float(second.mean()) / modelled) if modelled else series
    wander = _alike(pool, averages, series, (mean, second))
    after = replace(signal, mean=mean, second=second, wander=wander)
    _tell(signal, of, (count, law.mean, law.second_moment))
    slopes = _slopes(of, count, law)
    made = averages.followed(after, series, slopes, at_least=_of_points(function, base))
    error = _DRAWN if joint else _error(signal, after, count, apart)
    if not joint:
        error = math.hypot(error, Windowed(pool, base.units.wander).loose * slopes.turned)
    off = made.wander.plus(error**2)
    # A rising function and the largest may change places.
    came = Largest(layer, signal, _law(function, law, (apart, averages.left, count)))
    return replace(made, common=common(signal, after), wander=off, largest=came)


def _law(
    function: Elementwise, law: Moments, window: tuple[float, float, float]
) -> Elementwise | None:
    """Return the function of one standard normal number that has the law of the largest."""
    apart, left, count = window
    above = apart * above_mean(round(count))
    over = of_sum(above, torch.full_like(above, 1 / len(above)), math.sqrt(left))
    return over and (lambda z: function(law.mean + law.std * over(z)))


def _slopes(of: _Largest, count: float, law: Moments) -> Slopes:
    def second(factor: float, moved: float, of: _Largest = of) -> float:
        mean = law.mean + moved * law.std
        return of.moments(count, mean, mean**2 + factor * law.var)[1]

    turned = slopes_of(lambda by, _: second(1.0, 0.0, of.turned(by, count)), 0.0).size
    return slopes_of(second, turned)


def _rest(pool: Pool, averages: Averages) -> dict[str, Tensor]:
    """Return by class of pairs how alike is what positions of a window have beside their average.

    Of two windows, positions at the same places of both: at others, they are alike in nothing.
    Of neighbouring windows nobody knows.
    """
    if pool.whole or not few(pool):
        return dict.fromkeys(PAIRS, _NOTHING)
    law = averages.base.moments
    share = law.mean**2 / (law.second_moment or 1.0)
    left = share + (1 - share) * averages.left
    before, after = averages.base.units.wander, averages.units.wander
    rest = {
        name: pool.of(getattr(before, name)) - left * getattr(after, name)
        for name in ("same", "far", "aligned", "within")
    }
    long = of_pairs(after, rest.pop("same").clamp_min(0).sqrt())
    return {
        name: (each / long[name].clamp_min(SHORTEST)).clamp(0, 1)
        for name, each in rest.items()
        if name in long
    }


def _alike(
    pool: Pool, averages: Averages, series: Shaping, of_windows: tuple[Tensor, Tensor]
) -> Wander:
    """Return the likeness of the largest, from that of the averages of windows.

    Args:
        pool: the windows.
        averages: z̄.
        series: of E[y | z̄].
        of_windows: E[y] and E[y²]; (*map).
    """
    rest = _rest(pool, averages)
    wander, (mean, second) = averages.units.wander, of_windows
    made, whole = averages.units.through(series), float(second.mean())
    part, flat = series.second / whole, float(series.values[0]) / whole
    same = made.same * (second / whole / made.same.mean(0)).clamp_min(0)
    middle = (mean / math.sqrt(whole)).expand_as(same)
    long, means = lengths(wander), of_pairs(wander, middle)
    by = of_pairs(wander, (same - middle.square()).clamp_min(0).sqrt())
    alike = {}
    for name in PAIRS:
        rho, length = series.unbounded(getattr(wander, name)), long.get(name, _ONE)
        if name == "near" and not few(pool.doubled):  # but that of a model, on average
            rho, length = rho.mean(), length.mean()
        rho = (rho / length).clamp(-1, 1)
        like = part * series.along(rho) + max(1 - part, 0.0) * rest.get(name, rho)
        beside = (like - flat) / max(1 - flat, SHORTEST)
        alike[name] = beside * by.get(name, 1 - flat) + means.get(name, flat)
    return replace(made, **alike, same=same)


def _of_points(function: Elementwise, base: Signal) -> float:
    """Return the relative variance of the second moment of f that the mean over units makes.

    The largest of a window goes with the longest of its points, more than with their average.
    """
    units = base.units
    if not units.settled:
        return 0.0
    still = replace(units, wander=replace(units.wander, cumulants=(0.0, 0.0, 0.0)), unsure=0.0)
    kept = left(function, base.moments, units.of_inputs)
    return still.through(shaping(function, base), kept).cumulants[1]


def _tell(signal: Signal, of: _Largest, window: tuple[float, float, float]) -> None:
    """Say which slopes of an activation in front a gradient meets."""
    signal.feedback.expected = lambda fn: of.expected(fn, *window)
    if signal.base is not None:
        anywhere = replace(of, left=1.0, apart=0.0).slopes(1, *window[1:])
        here = of.slopes(*window)
        signal.feedback.slopes, signal.feedback.steeper = here, here / (anywhere or 1.0)


def _error(signal: Signal, after: Signal, count: float, apart: float) -> float:
    """Return what a second moment is off by, relative, where positions are not alike in pairs."""
    grown = max(1 - signal.moments.second_moment / after.moments.second_moment, 0.0)
    return _MODEL_ERROR * max(math.sqrt(count) - 2, 0.0) + _SMOOTH_ERROR * grown * (1 - apart**2)


def _check(pool: Pool, function: Elementwise, base: Signal) -> None:
    """Refuse what the largest z does not decide, or of which too little is known."""
    law = base.moments
    y = function(law.mean + law.std * NORMAL)
    fall = float(WEIGHTS @ (y.cummax(0).values - y).square())
    if fall > _FALL * float(WEIGHTS @ y.square()):
        raise NoTheoryError("no theory: the largest of a function that falls")
    decay, alone = Decay.of(base.units.wander, pool.sizes), float(pool.alone.mean())
    others = (decay.of_pairs(pool.rows, pool.rows) - alone) / max(1 - alone, 1e-9)
    if not few(pool) and alone < 1 and decay.of_neighbours(len(pool.sizes)) - others > _UNLIKE:
        raise NoTheoryError("no theory: neighbours are more alike than others of a window")


def _by_window(pool: Pool, of: _Largest, base: Signal) -> tuple[Tensor, Tensor]:
    """Return E[y] and E[y²] of each window; (*map)."""
    maps = (part.expand(pool.sizes)[None] for part in (base.mean, base.second))
    table = torch.stack([1 / pool.alone, *(pool.of(part)[0] for part in maps)])
    # Windows that differ by less than 1 % are taken together.
    size = float(base.second.mean()) ** 0.5
    finest = torch.tensor([1.0, 0.01 * size, 0.01 * size * size], dtype=torch.float64)
    alike, place = torch.unique(
        (table.reshape(3, -1).T / finest).round(), dim=0, return_inverse=True
    )
    found = [of.moments(*row) for row in (alike * finest).tolist()]
    mean, second = torch.tensor(found, dtype=torch.float64)[place].T
    return mean.reshape(table[0].shape), second.reshape(table[0].shape)
