"""What a point has in common with all others: what goes when the mean over all points is taken."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handwave.pairs import beside
from handwave.wandering import CLASSES, ROUNDING, Wander, one_input


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
        ends = wander.ends
        if ends is None:
            return cls.of_place(wander)
        own = (1 - wander.inputs) * ends.around(wander.far)
        if (within := wander.inputs - wander.share) > 0:
            own = own + within * replace(ends, second=ends.first).around(wander.within)
        own = own[torch.arange(len(wander.same)) % len(own)] + wander.share * wander.same
        return cls._shifted(wander, own)

    @classmethod
    def of_place(cls, wander: Wander) -> "Centre":
        """Give all points of one position the same: of averages over windows, all else is noise."""
        return cls._shifted(wander, wander.far.mean(0).expand_as(wander.same))

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
