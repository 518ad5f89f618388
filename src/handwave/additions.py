"""A branch that is added to what entered it: a sum of two independent parts."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from torch import Tensor

from handwave.crossings import Crossed
from handwave.lengths import lengths
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Signal, number, same, shaping
from handwave.units import Units
from handwave.wandering import CLASSES, PAIRS, Wander

# Out to so many deviations a sum is put down as a function of one Gaussian, by a polynomial of so
# many terms, which may be off by so much of its own deviation; beyond, the function is a line.
_REACH, _TERMS, _ROUGH = 8.0, 48, 1e-3
_CROSS, _ORDERS = 401, 7
_NODES, _HALVINGS = 2001, 50  # of the part that is not Gaussian; of a quantile


def added(one: Signal, other: Signal) -> Signal:
    """Add a branch, behind fresh weights, to what entered it.

    E[(x + y)²] = E[x²] + E[y²] + 2·E[x]·E[y], x and y being independent.
    """
    mean, second = one.mean + other.mean, one.second + other.second + 2 * one.mean * other.mean
    common = one.common + other.common + 2 * one.moments.mean * other.moments.mean
    before = one.summed_along(-other.wander.far.dim())
    mixed, cross = _mixed(before, one, other, float(second.mean()))
    wander = mixed.plus(cross)
    alike = wander.mean(torch.square) + wander.noise
    plain = one.function is same and other.function is same
    total = replace(
        other,
        mean=mean,
        second=second,
        common=common,
        wander=wander,
        # How far the sum stands off is settled; what a function makes of its units is not.
        units=Units(wander, other.units.count, 2 * alike),
        function=same if plain else None,
        base=None,
        sample=None,
        largest=None,
    )
    return total if plain else _of_one_gaussian(total, one, other, mixed.cumulants, cross)


def _of_one_gaussian(total: Signal, one: Signal, other: Signal, cumulants, cross) -> Signal:
    """Put a sum of a Gaussian part and another down as a function of one Gaussian.

    Its law is exact. Two points have in common what they have; that their two Gaussians are
    jointly Gaussian as well is assumed.
    """
    gaussian, bent = (other, one) if other.function is same else (one, other)
    if gaussian.function is not same or bent.function is None:
        return total
    function = _quantiles(bent, gaussian.moments.std)
    if function is None:
        return total
    law = total.moments
    series = Shaping.of(function, 0.0, 1.0)
    spread = math.sqrt(law.var / (series.second - series.mean**2))
    function = partial(_moved, function, law.mean - spread * series.mean, spread)
    series = Shaping.of(function, 0.0, 1.0)
    inverse = _Inverse(series)
    second = total.second / law.second_moment
    wander = _below(total.wander, inverse)
    wander = replace(wander, cumulants=cumulants, **_before_draw(one, other, law.second_moment, wander, inverse))
    alike = wander.mean(torch.square) + wander.noise
    open_ = sum(
        _unknown_mean(part) * part.moments.second_moment / law.second_moment for part in (one, other)
    )
    mean = total.wander.mean(torch.clone, power=1.0) - law.mean**2 / law.second_moment
    mean_z = wander.mean(torch.clone, power=1.0)
    known_mean = mean_z * max(1 - open_ / mean, 0.0) if mean > 0 else mean_z
    settled = sum(
        (part.moments.var / law.var) ** 2 * (part.base or part).units.settled for part in (one, other)
    )
    known = max(2 * alike - cross * other.units.count / series.slope**2, 0.0)
    units = Units(wander, other.units.count, known, known_mean, settled=settled)
    print('settled', settled, 'unlike', wander.unlike, [(part.base or part).units.settled for part in (one,other)], [(part.base or part).units.wander.unlike for part in (one,other)],'open',open_,mean,mean_z,known_mean)
    common = float(inverse(torch.tensor(total.common / law.second_moment)))
    base = replace(
        total, mean=torch.zeros_like(second), second=second, common=common, wander=wander,
        units=units, function=same,
    )
    base = replace(base, units=replace(units, crossed=_crossed(one, other, function)))
    return replace(total, units=base.units, function=function, base=base)


def _before_draw(one, other, second, wander, inverse):
    noise = own = lengths = 0.0
    for part in (one, other):
        base = part.base or part
        seen, series = base.units.wander, shaping(part.function, base)
        steep = seen.mean(lambda likeness: series.steepness(likeness).square())
        share = (part.moments.second_moment / second) ** 2
        noise += share * steep * seen.noise
        own += share * steep * seen.own_noise
        lengths += share * series.slope**2 * seen.lengths
    steep = wander.mean(lambda likeness: inverse.series.steepness(likeness).square())
    print('noise', wander.noise, noise/steep, 'own', wander.own_noise, own/steep, 'lengths', wander.lengths, lengths)
    return {'noise': noise / steep, 'own_noise': own / steep, 'lengths': lengths}


def _moved(function: Elementwise, by: float, spread: float, z: Tensor) -> Tensor:
    return by + spread * function(z)


def _unknown_mean(part: Signal) -> float:
    """Return what of the mean likeness of a part is not known beforehand."""
    base = part.base or part
    units, wander = base.units, base.units.wander
    series = shaping(part.function, base)
    mean = part.wander.mean(torch.clone, power=1.0) 
    if units.settled:
        rho = wander.mapped(series.correlation)
        told = float(series.values[0] + series.values[1] * rho.mean(torch.clone, power=1.0) + series.values[2] * rho.mean(torch.square)) / series.second
        return max(mean - told, 0.0)
    share = series.mean_share
    line = wander.mean(torch.clone, power=1.0) - share
    known = min(max(units.known_mean - share, 0.0) / line, 1.0) if line > 0 else 1.0
    told = (float(series.values[0]) + float(series.values[1]) * known * line / (1 - share)) / series.second
    return max(mean - told, 0.0)


def _quantiles(part: Signal, std: float) -> Elementwise | None:
    """Return the function of one standard normal that has the law of a part plus a Gaussian.

    Args:
        part: a function of Gaussian units.
        std: of the Gaussian, of mean 0.
    """
    base, function = part.base or part, part.function
    assert function is not None
    if not std:
        return None
    t = torch.linspace(-_REACH - 1, _REACH + 1, _NODES, dtype=torch.float64)
    x = function(base.moments.mean + base.moments.std * t)
    weights = torch.log_softmax(-t * t / 2, dim=0)

    def quantile(z):
        z = torch.as_tensor(z)
        side = -z.sign() # of the nearer end
        side = torch.where(side == 0, 1.0, side)
        wanted = torch.special.log_ndtr(side * z)
        low, high = x.min() + std*z -std, x.max() + std * z +std
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            away = side[:, None] * (middle[:, None] - x) / std
            found = torch.logsumexp(weights + torch.special.log_ndtr(away), dim=1)
            short = (found < wanted) == (side > 0)
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return ((low + high) / 2).numpy()

    made = Chebyshev.interpolate(quantile, _TERMS, domain=[-_REACH, _REACH])
    check = torch.linspace(-5, 5, 101, dtype=torch.float64)
    rough = abs(made(check.numpy()) - quantile(check)).max()
    print('rough', rough, 'std', std, x.std())
    slopes = [float(made.deriv()(end)) for end in (-_REACH, _REACH)]

    def put(z: Tensor) -> Tensor:
        inside = z.clamp(-_REACH, _REACH)
        beyond = z - inside
        slope = torch.where(beyond < 0, slopes[0], slopes[1])
        return torch.from_numpy(made(inside.numpy())) + slope * beyond

    return put


class _Inverse:
    """From the likeness of what a function made of Gaussians to that of these."""

    def __init__(self, series: Shaping) -> None:
        self.rho = torch.linspace(-1, 1, 2001, dtype=torch.float64)
        self.made = torch.cummax(series.likeness(self.rho), 0).values
        self.series = series

    def __call__(self, likeness: Tensor) -> Tensor:
        made = self.made
        place = torch.searchsorted(made, likeness.double().contiguous()).clamp(1, len(made) - 1)
        low, high = made[place - 1], made[place]
        part = ((likeness - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        return torch.lerp(self.rho[place - 1], self.rho[place], part)


def _below(wander: Wander, inverse: _Inverse) -> Wander:
    """Return the likeness of the Gaussians below a function."""
    long = lengths(wander)
    parts = {}
    for name in PAIRS:
        length = long.get(name, torch.ones((), dtype=torch.float64))
        parts[name] = length * inverse(getattr(wander, name) / length)
    made = replace(wander, **parts)
    steep = made.mean(lambda likeness: inverse.series.steepness(likeness).square())
    noise, own = (min(part / max(steep, 1e-3), 1.0) for part in (wander.noise, wander.own_noise))
    return replace(made, noise=noise, own_noise=own)
def _mixed(before: Wander, one: Signal, other: Signal, total: float) -> tuple[Wander, float]:
    """Mix the likeness of two independent parts, and add up how far they stand off."""
    mine, theirs = (part.moments.second_moment / (total or 1.0) for part in (one, other))
    old, new = before, other.wander
    if any(getattr(old, name).shape != getattr(new, name).shape for name in CLASSES):
        old = old.mapped(lambda likeness: likeness.mean().reshape(1))  # of other pairs
    parts = {name: mine * getattr(old, name) + theirs * getattr(new, name) for name in CLASSES}
    cross = 4 * mine * theirs * max(_over_pairs(old, new, torch.mul) + new.echo*new.echoed, 0.0)
    print('cross', _over_pairs(old, new, torch.mul), 'echo', new.echo*new.echoed)
    # Products of one part with the other are drawn as well: two for each pair of points.
    products = 2 * mine * theirs / other.units.count
    noise, own = (
        mine**2 * one + theirs**2 * other + products
        for one, other in ((old.noise, new.noise), (old.own_noise, new.own_noise))
    )
    mixed = replace(new, **parts, noise=noise, own_noise=own, echo=0.0, echoed=1.0)
    mixed = replace(mixed, known=old.known and new.known)
    inherited = new.cumulants[1] >= old.cumulants[1]
    # Without a normalization in it, a branch stands off as far as what entered it, and further.
    kept = 1.0 if inherited else mine
    fresh = new.cumulants[1] - old.cumulants[1] if inherited else new.cumulants[1]
    made = replace(mixed, cumulants=old.cumulants).scaled(kept).plus(fresh * theirs**2)
    return made, cross / other.units.count


def _over_pairs(one: Wander, other: Wander, fn: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Average a function of both likenesses over all pairs of points."""
    within = max(one.inputs - one.share, 0.0)
    shares = {"same": one.share, "within": within, "far": 1 - one.inputs}
    return sum(
        share * float(fn(getattr(one, name), getattr(other, name)).mean())
        for name, share in shares.items()
        if share
    )


def _crossed(one: Signal, other: Signal, function: Elementwise) -> Crossed:
    """Follow both parts' Gaussians."""
    nodes = torch.linspace(-_REACH, _REACH, _CROSS, dtype=torch.float64)
    values, rho = [], []
    for part in (one, other):
        base = part.base or part
        series = shaping(part.function, base)
        values.append(part.function(base.moments.mean + base.moments.std * nodes))
        rho.append(base.units.wander.mapped(series.correlation))
    first, second = _of_same_pairs(*rho)
    alike = torch.tensor([
        [max(_over_pairs(first, second, lambda a, b: a**j * b**k), 0.0) for k in range(_ORDERS)]
        for j in range(_ORDERS)
    ])
    steep = math.prod(
        rho[i].mean(torch.ones_like) and (part.base or part).units.wander.mean(shaping(part.function, part.base or part).steepness)
        for i, part in enumerate((one, other))
    )
    alike[1, 1] += other.wander.echo * other.wander.echoed / steep
    print('alike11', alike[1,1], 'of echo', other.wander.echo * other.wander.echoed / steep, steep)
    z = torch.linspace(-_REACH, _REACH, 4 * _CROSS, dtype=torch.float64)
    total = values[0][:, None] + values[1]
    below = np.interp(total.numpy(), function(z).numpy(), z.numpy())
    return Crossed(torch.from_numpy(below), alike)


def _of_same_pairs(one: Wander, other: Wander) -> tuple[Wander, Wander]:
    """Let both know the same pairs: one average of all, where they do not."""
    if all(getattr(one, name).shape == getattr(other, name).shape for name in CLASSES):
        return one, other
    one, other = (
        each.mapped(lambda likeness: likeness.mean().reshape(1)) for each in (one, other)
    )
    return one, other
