"""The largest of a window of positions: their average, and how far the largest is above it."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from handwave.averages import NORMAL, WEIGHTS, Averages, Slopes, common, slopes_of
from handwave.in_pairs import InPairs
from handwave.joint import Joint
from handwave.lengths import SHORTEST, lengths, of_pairs
from handwave.moments import Moments
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

# What a second moment is off by where each position is followed, relative.
_DRAWN = 0.005

_ONE, _NOTHING = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)


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
    of = InPairs.of(function, averages, count)
    joint = Joint(pool, base) if pool.layout.few else None
    mean, second = joint.largest(function) if joint else of.by_window(pool, base)
    series = of.given(averages, float(second.mean()), count)
    wander = _alike(pool, averages, series, (mean, second))
    after = replace(signal, mean=mean, second=second, wander=wander)
    _tell(signal, of, (count, law.mean, law.second_moment))
    slopes = _slopes(of, count, law)._replace(of_points=_of_points(function, base))
    made = averages.followed(after, series, slopes)
    error = _DRAWN
    if not joint:
        loose = Windowed(pool, base.units.wander).loose * slopes.turned
        error = math.hypot(of.error(signal, after, count), loose)
    # A rising function and the largest may change places.
    came = Largest(layer, signal, of.law(count, law))
    off = made.wander.plus(error**2)
    return replace(made, common=common(signal, after), wander=off, largest=came)


def _slopes(of: InPairs, count: float, law: Moments) -> Slopes:
    def second(factor: float, moved: float, of: InPairs = of) -> float:
        mean = law.mean + moved * law.std
        return of.moments(count, mean, mean**2 + factor * law.var)[1]

    turned = slopes_of(lambda by, _: second(1.0, 0.0, of.turned(by, count)), 0.0).size
    return slopes_of(second, turned)


def _rest(pool: Pool, averages: Averages) -> dict[str, Tensor]:
    """Return by class of pairs how alike is what positions of a window have beside their average.

    Of two windows, positions at the same places of both: at others, they are alike in nothing.
    Of neighbouring windows nobody knows.
    """
    if pool.whole or not pool.layout.few:
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
        if name == "near" and not pool.layout.doubled.few:  # but that of a model, on average
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
    if not units.settled and not units.of_inputs:
        return 0.0
    still = replace(units, wander=replace(units.wander, cumulants=(0.0, 0.0, 0.0)), unsure=0.0)
    kept = left(function, base.moments, units.of_inputs)
    return still.through(shaping(function, base), kept).cumulants[1]


def _tell(signal: Signal, of: InPairs, window: tuple[float, float, float]) -> None:
    """Say which slopes of an activation in front a gradient meets."""
    signal.feedback.expected = lambda fn: of.expected(fn, *window)
    if signal.base is not None:
        anywhere = replace(of, left=1.0, apart=0.0).slopes(1, *window[1:])
        here = of.slopes(*window)
        signal.feedback.slopes, signal.feedback.steeper = here, here / (anywhere or 1.0)


def _check(pool: Pool, function: Elementwise, base: Signal) -> None:
    """Refuse what the largest z does not decide, or of which too little is known."""
    law = base.moments
    y = function(law.mean + law.std * NORMAL)
    fall = float(WEIGHTS @ (y.cummax(0).values - y).square())
    if fall > _FALL * float(WEIGHTS @ y.square()):
        raise NoTheoryError("no theory: the largest of a function that falls")
    if pool.layout.few:
        return
    decay, alone = Decay.of(base.units.wander, pool.sizes), float(pool.alone.mean())
    others = (decay.of_pairs(pool.rows, pool.rows) - alone) / max(1 - alone, 1e-9)
    if alone < 1 and decay.of_neighbours(len(pool.sizes)) - others > _UNLIKE:
        raise NoTheoryError("no theory: neighbours are more alike than others of a window")
