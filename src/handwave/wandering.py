"""How far one network wanders from the average one: what finite width does."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handwave.cumulants import Cumulants, of_log_gamma, quantile
from handwave.ends import Ends

ROUNDING = 1e-7  # relative, of what float32 leaves of a mean of squares

_MOST = 300.0  # of a logarithm; beyond, nothing is known

# How alike a point and itself are.
ITSELF = torch.ones((), dtype=torch.float64)


@dataclass(frozen=True)
class Wander:
    """Follow how alike the points of a batch are, and how far their second moment may stand off.

    A point is one input, of a convolution one position of one input. Likeness is the dot
    product of two points over the mean square length: 1 for a point with itself, on average.
    A pooled second moment over m fresh units has relative variance (2/m)·mean(likeness²).

    Args:
        same: likeness of points with themselves; (points, *map).
        far: of different inputs, at different positions if there are any; (pairs, *map).
        aligned: of different inputs at the same position.
        near: of neighbours in one input.
        within: of different positions of one input.
        share: of all pairs, those of a point with itself: 1/points.
        noise: variance of one likeness over draws of the weights so far.
        own_noise: of that, what is left when the mean over all points is taken out of each.
        echo: covariance of that with the one of the signal that entered a residual branch,
            as if no window had averaged it.
        echoed: share of that which windows have left: as often as two steps lead back, others do.
        lengths: relative variance of a point's square length over draws, beyond `same`.
        cumulants: of the log of the pooled second moment over its expectation.
        skew: square of the skewness of the numbers whose products likeness adds up.
        known: False where likeness is but assumed, behind what nothing is known of.
        modelled: whether `near` is but that of a model, behind pooling.
        ends: the points of the pairs, None where all are alike.
    """

    same: Tensor
    far: Tensor
    aligned: Tensor
    near: Tensor
    within: Tensor
    share: float
    noise: float = 0.0
    own_noise: float = 0.0
    echo: float = 0.0
    echoed: float = 1.0
    lengths: float = 0.0
    cumulants: Cumulants = (0.0, 0.0, 0.0)
    skew: float = 0.0
    known: bool = True
    modelled: bool = False
    ends: Ends | None = None

    def mapped(self, fn: Callable[[Tensor], Tensor]) -> "Wander":
        """Apply a function to every likeness."""
        parts = {name: fn(getattr(self, name)) for name in CLASSES}
        return replace(self, **parts)

    def mean(self, fn: Callable[[Tensor], Tensor], power: float = 2.0) -> float:
        """Average a function of the likeness over all pairs of points.

        Args:
            fn: of the likeness.
            power: with which fn grows where a point is longer than others.
        """
        longer = float((self.same.clamp_min(0) ** max(power, 0.0)).mean())
        alone = self.share * float(fn(ITSELF)) * longer
        others = ((name, share) for name, share in self.shares.items() if name != "same")
        return alone + sum(share * float(fn(getattr(self, name)).mean()) for name, share in others)

    @property
    def inputs(self) -> float:
        """Return what share of all pairs belongs to one input."""
        return min(self.share * self.far[0].numel(), 1.0)

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of all pairs of each class that makes them up, where it has any."""
        within = max(self.inputs - self.share, 0.0)
        between, positions = 1 - self.inputs, self.far[0].numel()
        aligned = between / positions if positions > 1 else 0.0
        shares = {
            "same": self.share, "within": within, "aligned": aligned, "far": between - aligned
        }  # fmt: skip
        return {name: share for name, share in shares.items() if share}

    @property
    def repeated(self) -> float:
        """Return the covariance of one likeness with that of what entered a residual branch."""
        return self.echo * self.echoed

    @property
    def unlike(self) -> float:
        """Return the relative variance of a point's square length, over points and draws."""
        at_one_place = self.same / self.same.mean(0).clamp_min(1e-9)
        over_points = float(at_one_place.var(0, correction=0).mean())
        return over_points + self.lengths + self.cumulants[1]

    @property
    def of_one_unit(self) -> float:
        """Return the relative variance of one unit's mean square over the points."""
        return 2 * (self.mean(torch.square) + self.noise)

    def kept(self, count: float, beside: float) -> float:
        """Return what share of noise is left of an average over a window of positions.

        What all points have in common is none.

        Args:
            count: positions in the window.
            beside: of pairs of different ones, what share are neighbours.
        """
        common = float(self.far.mean())
        near, within = (
            max(float(part.mean()) - common, 0.0) / max(1 - common, 1e-9)
            for part in (self.near, self.within)
        )
        alike = beside * near**2 + (1 - beside) * within**2
        return min(1 / count + max(1 - 1 / count, 0.0) * alike, 1.0)

    @property
    def drawn_lengths(self) -> float:
        """Return the relative variance of a point's square length that its units make.

        Of it, lengths is what is beyond the square of what two points have in common. That of a
        single Gaussian number is 2.
        """
        return min(self.lengths / max(1 - float(self.far.square().mean()), 1e-9), 2.0)

    def of_inputs(self, fn: Callable[[Tensor], Tensor]) -> float:
        """Average a function of the likeness over all pairs of positions of one input."""
        share = 1 / self.far[0].numel()
        return share * float(fn(ITSELF)) + (1 - share) * float(fn(self.within).mean())

    def scaled(self, slope: float) -> "Wander":
        """Put a power law behind the second moment: its log is multiplied."""
        first, second, third = self.cumulants
        return replace(self, cumulants=(first * slope, second * slope**2, third * slope**3))

    def plus(self, variance: float) -> "Wander":
        """Multiply the second moment by an independent factor of that relative variance."""
        fresh = of_log_gamma(variance)
        first, second, third = (a + b for a, b in zip(self.cumulants, fresh, strict=True))
        return replace(self, cumulants=(first, second, third))

    def flattened(self, left: float) -> "Wander":
        """Leave so much of the mean square of all likeness, that of points with themselves too."""
        whole = self.mean(torch.square)
        alone = self.share * float((self.same.clamp_min(0) ** 2).mean())
        kept = min(math.sqrt(max(left * whole - alone, 0.0) / max(whole - alone, 1e-9)), 1.0)
        far, aligned, within = (kept * part for part in (self.far, self.aligned, self.within))
        # Neighbours that are nearly one stay so, whatever their length.
        same = self.same[torch.arange(len(self.near)) % len(self.same)].clamp_min(1e-9)
        near = self.near * (1 - (1 - kept) * (1 - (self.near / same).clamp(0, 1)))
        made = replace(self, far=far, aligned=aligned, near=near, within=within)
        return made.moved(self.mean(torch.clone, power=1.0) - made.mean(torch.clone, power=1.0))

    def moved(self, by: float) -> "Wander":
        """Add so much to the mean of all likeness, for different points alone."""
        off = by / max(1 - self.share, 1e-9)
        return replace(self, **{name: getattr(self, name) + off for name in PAIRS})

    def with_noise(self, kept: float, lengths: float = 1.0) -> "Wander":
        """Keep so much of the noise, and of what lengths vary by."""
        noise, own = min(kept * self.noise, 1.0), min(kept * self.own_noise, 1.0)
        made = replace(self, noise=noise, own_noise=own, lengths=lengths * self.lengths)
        return replace(made, echoed=min(self.echoed, kept))

    def flat(self, positions: int) -> "Wander":
        """Turn positions into units: inputs are alike as their positions are, on average."""
        if self.far.dim() == 1:
            return replace(self, share=min(self.share * positions, 1.0))
        kept = self.kept(positions, beside=0.0)
        averaged = self.mapped(lambda likeness: likeness.flatten(1).mean(1))
        share = min(self.share * positions, 1.0)
        far = within = averaged.aligned
        return replace(averaged, far=far, within=within, share=share).with_noise(kept, kept)

    def inverse_square(self, var: float, eps: float) -> float:
        """Return E[1/(var·length² + eps)] over inputs, the mean square length being 1."""
        of_each = self.same.reshape(len(self.same), -1).mean(1)
        return float((1 / (var * of_each.clamp_min(1e-3) + eps)).mean())

    def band(self, second_moment: float, coverage: float) -> tuple[float, float]:
        """Return what holds the pooled second moment with the probability `coverage`."""
        tail = (1 - coverage) / 2
        low, high = (min(quantile(self.cumulants, p), _MOST) for p in (tail, 1 - tail))
        return second_moment * math.exp(low), second_moment * math.exp(high)


def on_map(likeness: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Give likeness a map if it has none; (pairs, *map)."""
    likeness = likeness if likeness.dim() > 1 else likeness.reshape(-1, *[1] * len(sizes))
    return likeness.expand(len(likeness), *sizes)


PAIRS = ("far", "aligned", "near", "within")
CLASSES = ("same", *PAIRS)


def one_input() -> Wander:
    """Assume nothing about the inputs: as alike as can be, which wanders most."""
    one = torch.ones(1, dtype=torch.float64)
    return Wander(one, one, one, one, one, 1.0)


def over_pairs(one: Wander, other: Wander, fn: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Average a function of two likenesses over all pairs of points."""
    return sum(
        share * float(fn(getattr(one, name), getattr(other, name)).mean())
        for name, share in one.shares.items()
    )
