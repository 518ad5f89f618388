"""A branch that is added to what entered it: a sum of two independent parts."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from handwave.addends import Addend
from handwave.crossings import Crossed, mean_of, nodes, normal
from handwave.mixtures import Below, of_sum
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Feedback, Signal, same
from handwave.units import Units
from handwave.wandering import CLASSES, Wander, over_pairs

_NODES, _FINER = 401, 4  # of either Gaussian; of the one that stands for both, so many times
_ORDERS = 7  # of what both make together
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
    parts = Addend.of(one), Addend.of(other)
    if parts[0] is None or parts[1] is None:
        return total
    if parts[0].straight and parts[1].straight:
        return replace(total, function=same)
    return _of_one_gaussian(total, (parts[0], parts[1]), mixed)


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
        both = max(over_pairs(old, new, torch.mul) + new.repeated, 0.0)
        cross = 4 * mine * theirs * both / count
        return cls(mixed.scaled(kept).plus(fresh * theirs**2), cross, inherited)


def _of_one_gaussian(total: Signal, parts: tuple[Addend, Addend], mixed: _Mixed) -> Signal:
    """Put a sum of a Gaussian part and another down as a function of one Gaussian.

    Its law is exact. Two points have in common what they have; that their two Gaussians are
    jointly Gaussian as well is assumed, but for what follows both.
    """
    function = _function(total, parts)
    if function is None:
        return total
    law, series = total.moments, Shaping.of(function, 0.0, 1.0)
    below = Below(series)
    wander = replace(below.of_pairs(total.wander), cumulants=mixed.wander.cumulants)
    wander = replace(wander, **_before_drawn(parts, law.second_moment, wander, series))
    open_ = sum(part.open_mean for part in parts) / float(series.values[1])
    # What is not known of the mean is likeness, be it among that which pairs have or not.
    wander = wander.moved(max(open_ - wander.mean(torch.clone, power=1.0), 0.0))
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


def _function(total: Signal, parts: tuple[Addend, Addend]) -> Elementwise | None:
    """Return what makes the sum of a standard normal number; None where nobody knows."""
    gaussian, bent = parts if parts[0].straight else parts[::-1]
    if not gaussian.straight:
        return None
    values = bent.at_nodes(bent.function, 2 * _NODES)
    made = of_sum(values, normal(2 * _NODES), gaussian.signal.moments.std)
    if made is None:
        return None
    law, series = total.moments, Shaping.of(made, 0.0, 1.0)
    spread = law.std / math.sqrt(series.second - series.mean**2)

    def function(z: Tensor) -> Tensor:
        return law.mean + spread * (made(z) - series.mean)

    return function


def _before_drawn(
    parts: tuple[Addend, Addend], second: float, wander: Wander, series: Shaping
) -> dict[str, float]:
    """Return how far likeness and lengths stood off before the units were drawn."""
    noise = own = long = 0.0
    for part in parts:
        seen, share = part.base.units.wander, (part.signal.moments.second_moment / second) ** 2
        steep = share * part.steep(power=2)
        noise, own = noise + steep * seen.noise, own + steep * seen.own_noise
        long += share * part.series.slope**2 * seen.lengths
    steep = max(wander.mean(lambda likeness: series.steepness(likeness).square()), 1e-9)
    return {"noise": noise / steep, "own_noise": own / steep, "lengths": long}


def _crossed(parts: tuple[Addend, Addend], function: Elementwise, mixed: _Mixed) -> Crossed:
    """Follow both Gaussians that a sum is made of."""
    first, second = (part.at_nodes(part.function, _NODES) for part in parts)
    z = nodes(_FINER * _NODES)
    rising = function(z).numpy()

    def below(values: Tensor) -> Tensor:
        return torch.from_numpy(np.interp(values.numpy(), rising, z.numpy()))

    total, root = first[:, None] + second, math.sqrt(_MOVED)
    moved = root * total if mixed.inherited else root * first[:, None] + second
    by = math.log(float(mean_of(moved.square()) / mean_of(total.square())))
    slope = parts[0].at_nodes(parts[0].signal.feedback.slope or torch.ones_like, _NODES)
    one, other = (part.correlated() for part in parts)
    if not _alike(one, other):
        one, other = _averaged(one), _averaged(other)
    return Crossed(
        below(total),
        one,
        other,
        below(moved),
        by,
        _powers(parts, (one, other)),
        open=(parts[0].open, parts[1].open),
        straight=(parts[0].straight, parts[1].straight),
        cross=mixed.cross,
        steep=slope.square(),
    )


def _powers(parts: tuple[Addend, Addend], pairs: tuple[Wander, Wander]) -> Tensor:
    """Average ρ₁ʲ·ρ₂ᵏ over all pairs of points."""
    made = [
        [over_pairs(*pairs, lambda a, b, j=j, k=k: a**j * b**k) for k in range(_ORDERS)]
        for j in range(_ORDERS)
    ]
    table = torch.tensor(made, dtype=torch.float64).clamp_min(0)
    steep = math.prod(part.steep() for part in parts)
    table[1, 1] += parts[1].signal.wander.repeated / steep if steep else 0.0
    return table


def _alike(one: Wander, other: Wander) -> bool:
    """Tell whether both know the likeness of the same pairs."""
    return all(getattr(one, name).shape == getattr(other, name).shape for name in CLASSES)


def _averaged(wander: Wander) -> Wander:
    """Forget the pairs, and keep their average."""
    return wander.mapped(lambda likeness: likeness.mean().reshape(1))
