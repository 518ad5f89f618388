"""A branch that is added to what entered it: a sum of two independent parts."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from handwave.crossings import Crossed, mean_of, nodes, normal
from handwave.lengths import lengths
from handwave.mixtures import Below, of_sum
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Feedback, Signal, same, shaping
from handwave.units import Units
from handwave.wandering import CLASSES, Wander, over_pairs

_NODES, _FINER = 401, 4  # of either Gaussian; of the one that stands for both, so many times
_ORDERS = 7  # of what both make together
_STRAIGHT = 1e-9  # of a deviation, by which a line may bend from node to node
_MOVED = 1.01  # by how much a second moment is moved, to see what follows


def added(one: Signal, other: Signal) -> Signal:
    """Add a branch, behind fresh weights, to what entered it.

    E[(x + y)²] = E[x²] + E[y²] + 2·E[x]·E[y], x and y being independent.
    """
    if not other.moments.second_moment:
        return replace(one, feedback=Feedback(slope=one.feedback.slope))
    mean, second = one.mean + other.mean, one.second + other.second + 2 * one.mean * other.mean
    common = one.common + other.common + 2 * one.moments.mean * other.moments.mean
    mixed = _Mixed.of(one, other, float(second.mean()))
    wander = mixed.wander.plus(mixed.cross)
    alike = wander.mean(torch.square) + wander.noise
    total = replace(
        other,
        mean=mean,
        second=second,
        common=common,
        wander=wander,
        # How far the sum stands off is settled; what a function makes of its units is not.
        units=Units(wander, other.units.count, 2 * alike),
        function=None,
        base=None,
        sample=None,
        largest=None,
        feedback=Feedback(),
    )
    if _straight(one) and _straight(other):
        return replace(total, function=same)
    return _of_one_gaussian(total, (one, other), mixed)


@dataclass(frozen=True)
class _Mixed:
    """Hold what two independent parts make of likeness and of how far they stand off.

    Args:
        wander: of the sum, but for what their product makes.
        cross: relative variance of the sum's second moment that it makes.
        inherited: whether the branch stands off at least as far as what entered it.
    """

    wander: Wander
    cross: float
    inherited: bool

    @classmethod
    def of(cls, one: Signal, other: Signal, total: float) -> "_Mixed":
        """Mix two parts, total being the second moment of their sum."""
        mine, theirs = (part.moments.second_moment / (total or 1.0) for part in (one, other))
        count = other.units.count
        old, new = one.summed_along(-other.wander.far.dim()), other.wander
        if not _alike(old, new):
            old = _averaged(old)
        parts = {name: mine * getattr(old, name) + theirs * getattr(new, name) for name in CLASSES}
        # Products of one part with the other are drawn as well: two for each pair of points.
        noise, own = (
            mine**2 * first + theirs**2 * second + 2 * mine * theirs / count
            for first, second in ((old.noise, new.noise), (old.own_noise, new.own_noise))
        )
        mixed = replace(new, **parts, noise=noise, own_noise=own, echo=0.0, echoed=1.0)
        inherited = new.cumulants[1] >= old.cumulants[1]
        # Without a normalization in it, a branch stands off as far as what entered it, and further.
        kept = 1.0 if inherited else mine
        fresh = new.cumulants[1] - old.cumulants[1] if inherited else new.cumulants[1]
        mixed = replace(mixed, cumulants=old.cumulants, known=old.known and new.known)
        both = max(over_pairs(old, new, torch.mul) + new.echo * new.echoed, 0.0)
        cross = 4 * mine * theirs * both / count
        return cls(mixed.scaled(kept).plus(fresh * theirs**2), cross, inherited)


def _of_one_gaussian(total: Signal, parts: tuple[Signal, Signal], mixed: _Mixed) -> Signal:
    """Put a sum of a Gaussian part and another down as a function of one Gaussian.

    Its law is exact. Two points have in common what they have; that their two Gaussians are
    jointly Gaussian as well is assumed.
    """
    function = _function(total, parts)
    if function is None:
        return total
    law, series = total.moments, Shaping.of(function, 0.0, 1.0)
    below = Below(series)
    open_ = sum(map(_open_mean, parts)) / float(series.values[1])
    wander = replace(below.of_pairs(total.wander), cumulants=mixed.wander.cumulants)
    wander = replace(wander, **_before_drawn(parts, law.second_moment, wander, series))
    units = Units(
        wander,
        total.units.count,
        wander.of_one_unit,
        known_mean=max(wander.mean(torch.clone, power=1.0) - open_, 0.0),
        crossed=_crossed(parts, function, mixed),
    )
    second = total.second / law.second_moment
    common = float(below.of(torch.tensor(total.common / law.second_moment, dtype=torch.float64)))
    base = replace(
        total, mean=0 * second, second=second, common=common, wander=wander, units=units,
        function=same,
    )  # fmt: skip
    return replace(total, units=units, function=function, base=base)


def _function(total: Signal, parts: tuple[Signal, Signal]) -> Elementwise | None:
    """Return what makes the sum of a standard normal number; None where nobody knows."""
    gaussian, bent = parts if _straight(parts[0]) else parts[::-1]
    if not _straight(gaussian) or bent.function is None:
        return None
    made = of_sum(_values(bent, 2 * _NODES), normal(2 * _NODES), gaussian.moments.std)
    if made is None:
        return None
    law, series = total.moments, Shaping.of(made, 0.0, 1.0)
    spread = law.std / math.sqrt(series.second - series.mean**2)

    def function(z: Tensor) -> Tensor:
        return law.mean + spread * (made(z) - series.mean)

    return function


def _straight(part: Signal) -> bool:
    """Tell a part that is Gaussian: a line over its units."""
    if part.function is None or part.function is same:
        return part.function is same
    bends = _values(part, _NODES).diff(n=2).abs()
    return float(bends.max()) <= _STRAIGHT * part.moments.std


def _drawn(part: Signal) -> Signal:
    """Return the Gaussian units that a part was made of."""
    return part.base or part


def _values(part: Signal, count: int) -> Tensor:
    """Return a part at the nodes of its Gaussian."""
    law = _drawn(part).moments
    assert part.function
    return part.function(law.mean + law.std * nodes(count))


def _before_drawn(
    parts: tuple[Signal, Signal], second: float, wander: Wander, series: Shaping
) -> dict[str, float]:
    """Return how far likeness and lengths stood off before the units were drawn."""
    noise = own = long = 0.0
    for part in parts:
        base = _drawn(part)
        made, seen = _series(part), base.units.wander
        share = (part.moments.second_moment / second) ** 2
        steep = share * seen.mean(lambda likeness, made=made: made.steepness(likeness).square())
        noise, own = noise + steep * seen.noise, own + steep * seen.own_noise
        long += share * made.slope**2 * seen.lengths
    steep = max(wander.mean(lambda likeness: series.steepness(likeness).square()), 1e-9)
    return {"noise": noise / steep, "own_noise": own / steep, "lengths": long}


def _crossed(parts: tuple[Signal, Signal], function: Elementwise, mixed: _Mixed) -> Crossed:
    """Follow both Gaussians that a sum is made of."""
    first, second = (_values(part, _NODES) for part in parts)
    z = nodes(_FINER * _NODES)
    rising = function(z).numpy()

    def below(values: Tensor) -> Tensor:
        return torch.from_numpy(np.interp(values.numpy(), rising, z.numpy()))

    total, root = first[:, None] + second, math.sqrt(_MOVED)
    moved = root * total if mixed.inherited else root * first[:, None] + second
    by = math.log(float(mean_of(moved.square()) / mean_of(total.square())))
    steep = parts[0].feedback.slope
    law = _drawn(parts[0]).moments
    slope = torch.ones_like(first) if steep is None else steep(law.mean + law.std * nodes(_NODES))
    pairs = _correlations(parts)
    alike = _powers(parts, pairs)
    return Crossed(below(total), *pairs, below(moved), by, alike, mixed.cross, slope.square())


def _correlations(parts: tuple[Signal, Signal]) -> tuple[Wander, Wander]:
    """Return how both Gaussians of two points are correlated, for the same pairs."""
    one, other = (_correlated(part) for part in parts)
    return (one, other) if _alike(one, other) else (_averaged(one), _averaged(other))


def _correlated(part: Signal) -> Wander:
    """Take the mean and the lengths of points out of how alike the Gaussians of a part are."""
    series, seen = _series(part), _drawn(part).units.wander
    long = lengths(seen)
    made = {
        name: (series.unbounded(getattr(seen, name)) / long.get(name, 1.0)).clamp(-1, 1)
        for name in CLASSES
    }
    return replace(seen, **made)


def _powers(parts: tuple[Signal, Signal], pairs: tuple[Wander, Wander]) -> Tensor:
    """Average ρ₁ʲ·ρ₂ᵏ over all pairs of points; of ρ₁ and ρ₂ alone, what is not known of them."""
    made = [
        [over_pairs(*pairs, lambda a, b, j=j, k=k: a**j * b**k) for k in range(_ORDERS)]
        for j in range(_ORDERS)
    ]
    table = torch.tensor(made, dtype=torch.float64).clamp_min(0)
    steep = math.prod(_drawn(part).units.wander.mean(_series(part).steepness) for part in parts)
    table[1, 1] += parts[1].wander.echo * parts[1].wander.echoed / steep if steep else 0.0
    table[1, 0], table[0, 1] = (_open(part) for part in parts)
    return table


def _series(part: Signal) -> Shaping:
    """Expand a part in its Gaussian."""
    return shaping(part.function or same, _drawn(part))


def _open(part: Signal) -> float:
    """Return what is not known of the mean likeness of Gaussian units; 0 behind a function.

    What their mean makes of the second moment behind it, that has taken along.
    """
    units, share = part.units, _drawn(part).moments
    if not _straight(part) or units.settled:
        return 0.0
    mean = share.mean**2 / (share.second_moment or 1.0)
    open_ = units.wander.mean(torch.clone, power=1.0) - max(units.known_mean, mean)
    return max(open_, 0.0) / (1 - mean or 1.0)


def _open_mean(part: Signal) -> float:
    """Return what is not known of the mean of E[y_a·y_b] over all pairs of points."""
    base = _drawn(part)
    units, series = base.units, _series(part)
    if _straight(part):
        return _open(part) * part.moments.var
    if units.crossed:
        return units.crossed.open_mean(part.function or same)
    if not units.settled:
        return float(series.values[1]) * _open(replace(base, function=same))
    return max(units.wander.mean(series.bent, power=1.0), 0.0)


def _alike(one: Wander, other: Wander) -> bool:
    """Tell whether both know the likeness of the same pairs."""
    return all(getattr(one, name).shape == getattr(other, name).shape for name in CLASSES)


def _averaged(wander: Wander) -> Wander:
    """Forget the pairs, and keep their average."""
    return wander.mapped(lambda likeness: likeness.mean().reshape(1))
