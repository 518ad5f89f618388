"""What points have in common: what goes when the mean of all, or of each one's units, is taken."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handwave.lengths import of_pairs
from handwave.pairs import beside
from handwave.wandering import CLASSES, ROUNDING, Wander, one_input


def around(wander: Wander, fn: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    """Average a function of likeness over all pairs that each point is in; (points, *map)."""
    inputs = wander.inputs
    return inputs * within(wander, fn) + (1 - inputs) * between(wander, fn)


def within(wander: Wander, fn: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    """Average over the pairs of each point with those of its own input, itself included."""
    ends, alone = wander.ends, 1 / wander.far[0].numel()
    if alone == 1:
        return fn(wander.same)
    others = fn(wander.within)
    others = replace(ends, second=ends.first).around(others) if ends else others.mean(0)[None]
    return alone * fn(wander.same) + (1 - alone) * _of_points(others, wander)


def between(wander: Wander, fn: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    """Average over the pairs of each point with those of other inputs."""
    far, ends, alone = fn(wander.far), wander.ends, 1 / wander.far[0].numel()
    some = ends.around(far) if ends else far.mean(0)[None]
    if alone < 1:
        same = fn(wander.aligned)
        here = ends.at_one_position.around(same) if ends else same.mean(0)[None]
        some = alone * here + (1 - alone) * some
    return _of_points(some, wander)


def _of_points(some: Tensor, wander: Wander) -> Tensor:
    """Give the points that are in no pair the numbers of others."""
    return some[torch.arange(len(wander.same)) % len(some)]


@dataclass(frozen=True)
class Centre:
    """Hold how alike the points are to the mean of all.

    Args:
        wander: likeness of points and of pairs.
        shared: of the second moment, what that mean makes.
        own: likeness of each point of `wander.same` to the mean; (points, *map).
    """

    wander: Wander
    shared: float
    own: Tensor

    @classmethod
    def of(cls, wander: Wander) -> "Centre":
        """Average over the pairs that each point is in, itself included."""
        return cls.of_place(wander) if wander.ends is None else cls._shifted(wander, around(wander))

    @classmethod
    def of_place(cls, wander: Wander) -> "Centre":
        """Give all points of one position the same: of averages over windows, all else is noise."""
        own = between(replace(wander, ends=None))
        return cls._shifted(wander, own.expand_as(wander.same))

    @classmethod
    def _shifted(cls, wander: Wander, own: Tensor) -> "Centre":
        """Give likeness to the mean the mean that all likeness has, of which some is followed."""
        shared = wander.mean(torch.clone, power=1.0)
        return cls(wander, shared, own + (shared - own.mean()))

    def of_pairs(self) -> dict[str, Tensor]:
        """Return of each class of pairs what their likeness has of the mean's."""
        wander, own, shared = self.wander, self.own, self.shared
        ends = wander.ends
        if ends is None:
            return dict.fromkeys(CLASSES, own + own.mean(0) - shared)
        first, second = ends.of(own, len(wander.far))
        found = {
            "same": 2 * own - shared,
            "far": first + ends.moved(second) - shared,
            "aligned": first + second - shared,
        }
        inside = own[: len(wander.within)]
        if own.dim() == 1:  # without positions, there are no pairs within one input
            return found | {"near": found["far"], "within": found["far"]}
        return found | {
            "near": own[: len(wander.near)] + beside(own[: len(wander.near)]) - shared,
            "within": inside + ends.moved(inside) - shared,
        }


def by_units(wander: Wander, units: float, common: float) -> tuple[Wander, float]:
    """Take the mean over some units, and over all positions, out of each input.

    Of two points a and b the likeness K(a, b) loses what each has of the other one's mean:
    mean(K(a, ·))/U of U units, and of what two units have in common, μ(a)·mean(μ), the rest.

    Args:
        wander: likeness of points before.
        units: U.
        common: E[y_i·y_k] of two units of one point, over E[y²].

    Returns:
        The likeness of what is left, and its share of the second moment.
    """
    means = (max(common, 0.0) * wander.same.clamp_min(0)).sqrt()
    if wander.far[0].numel() == 1:
        both = of_pairs(wander, means)
        taken = {
            name: getattr(wander, name) / units + (1 - 1 / units) * both.get(name, common)
            for name in CLASSES
        }
    else:
        own, other = (each.of_pairs() for each in _of_each_input(wander, units, means))
        taken = own | {name: other[name] for name in ("far", "aligned")}
    left = {name: getattr(wander, name) - part for name, part in taken.items()}
    rest = float(left["same"].mean())
    if rest < ROUNDING:  # the units of an input are one number
        return one_input(), 0.0
    noise = min(wander.own_noise / rest**2, 1.0)
    left = {name: part / rest for name, part in left.items()}
    left["same"] = left["same"].clamp_min(ROUNDING)
    return replace(wander, **left, noise=noise, own_noise=noise, echo=wander.echo / rest), rest


def _of_each_input(wander: Wander, units: float, means: Tensor) -> tuple[Centre, Centre]:
    """Return how alike points are to the mean of their own input, and to that of another one.

    Args:
        wander: likeness of points, in maps.
        units: of how many units, beside all positions, a mean is taken.
        means: of units, over drawings of them, by point.
    """
    whole = means.flatten(1).mean(1).reshape(-1, *[1] * (means.dim() - 1))
    drawn = (1 - 1 / units) * means
    made = []
    for alike, other in ((within(wander), whole), (between(wander), whole.mean())):
        own = alike / units + drawn * other
        made.append(Centre(wander, float(own.mean()), own.expand_as(wander.same)))
    return made[0], made[1]


def of_unit_length(wander: Wander) -> Wander:
    """Give all inputs one length; the positions of one keep theirs, in proportion."""
    each = wander.same.reshape(len(wander.same), -1).mean(1)
    by = each.clamp_min(1e-9).rsqrt().reshape(-1, *[1] * (wander.same.dim() - 1))
    by = by.expand_as(wander.same)
    both = {"same": by * by} | of_pairs(wander, by)
    made = {name: getattr(wander, name) * factor for name, factor in both.items()}
    return replace(wander, **made, lengths=0.0)


def centred(wander: Wander) -> tuple[Wander, float]:
    """Take the mean over all points out of each; return the share that is left as well."""
    centre = Centre.of(wander)
    rest = max(1 - centre.shared, 0.0)
    if rest < ROUNDING:  # all inputs are the same one
        return one_input(), 0.0
    left = {
        name: (getattr(wander, name) - common) / rest for name, common in centre.of_pairs().items()
    }
    # Where nearly all of a length is that of the mean, what is left is known badly: never less
    # than nothing.
    same = left["same"].clamp_min(ROUNDING)
    left["same"] = same / float(same.mean())
    noise = min(wander.own_noise / rest**2, 1.0)
    made = replace(wander, **left, noise=noise, own_noise=noise, echo=wander.echo / rest)
    # What the pairs, which are but some, have left of a mean.
    return made.moved(-made.mean(torch.clone, power=1.0)), rest
