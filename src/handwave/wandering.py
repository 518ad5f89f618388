"""How far one network wanders from the average one: what finite width does."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handwave.cumulants import Cumulants, of_log_gamma, quantile
from handwave.shaping import Shaping

# Of what a settled size explains, two numbers from a sample of pairs do not cancel better.
_UNKNOWN_AT_LEAST = 0.25

# Mean square likeness up to which its third power is followed: beyond, too few numbers make it.
_MOST_SKEWED = 0.2


@dataclass(frozen=True)
class Wander:
    """Follow how alike the points of a batch are, and how far their second moment may stand off.

    A point is one input, of a convolution one position of one input. Likeness is the dot
    product of two points over the mean square length: 1 for a point with itself, on average.
    A pooled second moment over m fresh units has relative variance (2/m)·mean(likeness²).

    Args:
        same, far: likeness of points with themselves, and of those of different inputs;
            (pairs, *map).
        aligned: of different inputs at the same position.
        near: of neighbours in one input.
        within: of different positions of one input.
        share: of all pairs, those of a point with itself: 1/points.
        noise: variance of one likeness over draws of the weights so far.
        lengths: relative variance of a point's square length over draws, beyond `same`.
        cumulants: of the log of the pooled second moment over its expectation.
        skew: square of the skewness of the numbers whose products likeness adds up.
    """

    same: Tensor
    far: Tensor
    aligned: Tensor
    near: Tensor
    within: Tensor
    share: float
    noise: float = 0.0
    lengths: float = 0.0
    cumulants: Cumulants = (0.0, 0.0, 0.0)
    skew: float = 0.0

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
        one = torch.ones((), dtype=torch.float64)
        longer = float((self.same.clamp_min(0) ** power).mean())
        within = self.inputs - self.share
        alone = self.share * float(fn(one)) * longer
        beside = within * float(fn(self.within).mean()) if within > 0 else 0.0
        return alone + beside + (1 - self.inputs) * float(fn(self.far).mean())

    @property
    def inputs(self) -> float:
        """Return what share of all pairs belongs to one input."""
        return min(self.share * self.far[0].numel(), 1.0)

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

        Of it, lengths is what is beyond the square of what two points have in common.
        """
        return self.lengths / max(1 - float(self.far.square().mean()), 1e-9)

    def of_inputs(self, fn: Callable[[Tensor], Tensor]) -> float:
        """Average a function of the likeness over all pairs of positions of one input."""
        share = 1 / self.far[0].numel()
        one = float(fn(torch.ones((), dtype=torch.float64)))
        return share * one + (1 - share) * float(fn(self.within).mean())

    def scaled(self, slope: float) -> "Wander":
        """Put a power law behind the second moment: its log is multiplied."""
        first, second, third = self.cumulants
        return replace(self, cumulants=(first * slope, second * slope**2, third * slope**3))

    def plus(self, variance: float) -> "Wander":
        """Multiply the second moment by an independent factor of that relative variance."""
        fresh = of_log_gamma(variance)
        first, second, third = (a + b for a, b in zip(self.cumulants, fresh, strict=True))
        return replace(self, cumulants=(first, second, third))

    def flat(self, positions: int) -> "Wander":
        """Turn positions into units: inputs are alike as their positions are, on average."""
        if self.far.dim() == 1:
            return replace(self, share=min(self.share * positions, 1.0))
        kept = self.kept(positions, beside=0.0)
        averaged = self.mapped(lambda likeness: likeness.flatten(1).mean(1))
        share = min(self.share * positions, 1.0)
        noise, lengths = self.noise * kept, self.lengths * kept
        far = within = averaged.aligned
        return replace(averaged, far=far, within=within, share=share, noise=noise, lengths=lengths)

    def inverse_square(self, var: float, eps: float) -> float:
        """Return E[1/(var·length² + eps)] over inputs, the mean square length being 1."""
        of_each = self.same.reshape(len(self.same), -1).mean(1)
        return float((1 / (var * of_each.clamp_min(1e-3) + eps)).mean())

    def band(self, second_moment: float, coverage: float) -> tuple[float, float]:
        """Return what holds the pooled second moment with the probability `coverage`."""
        tail = (1 - coverage) / 2
        low, high = (quantile(self.cumulants, p) for p in (tail, 1 - tail))
        return second_moment * math.exp(low), second_moment * math.exp(high)


CLASSES = ("same", "far", "aligned", "near", "within")


def one_input() -> Wander:
    """Assume nothing about the inputs: as alike as can be, which wanders most."""
    one = torch.ones(1, dtype=torch.float64)
    return Wander(one, one, one, one, one, 1.0)


@dataclass(frozen=True)
class Units:
    """Hold freshly drawn units, before and after whatever function is put on them.

    Args:
        wander: likeness of the points as the units see them, and how far their second moment
            stands off before the draw.
        count: how many units.
        known: of the relative variance 2·mean(likeness²) of one unit, what is known beforehand:
            the weights' own mean square explains 2/fan_in, that of a bias its part.
        known_mean: of the mean likeness, likewise: the weights' own mean explains the part that
            all units of an input have in common, and a bias its part.
        phases: sets of weights that a unit has, each for its own share of the points.
        settled: relative variance of one unit's mean square over the points that a norm over
            the batch has taken away, so that all units have one.
        unsure: by how much `settled` may be off.
        of_inputs: relative variance of an input's mean square over its units, which a norm has
            taken away likewise.
        groups: of channels, of which each unit sees one: of noise in likeness and in lengths,
            the units together have so much less.
    """

    wander: Wander
    count: float
    known: float
    known_mean: float = 0.0
    phases: float = 1.0
    settled: float = 0.0
    unsure: float = 0.0
    of_inputs: float = 0.0
    groups: float = 1.0

    def of_groups(self, groups: float) -> "Units":
        """Let each unit see one group of channels: likeness over fewer numbers is noisier."""
        noise, lengths = min(groups * self.wander.noise, 1.0), groups * self.wander.lengths
        return replace(
            self, wander=replace(self.wander, noise=noise, lengths=lengths), groups=groups
        )

    @property
    def unlike(self) -> float:
        """Return by how much E[z⁴] of a unit differs from a Gaussian's, relative; above −1.

        Of z = h/√v with v the unit's own mean square, E[z⁴] = E[h⁴]/E[v²]: points of one
        length have less than a Gaussian's, and what the lengths add is taken by v in part.
        """
        return (1 + self.wander.unlike) / (1 + self.settled) / (1 + self.of_inputs) - 1

    def through(self, shaping: Shaping, left: float = 1.0) -> Wander:
        """Follow f(z) for all units z; relative variance mean(Cov(f_a², f_b²))/E[f²]²/count.

        Args:
            shaping: what f does to likeness.
            left: share of what is beyond the square of z that a norm over units has left.
        """
        if not shaping.second:
            return self.wander
        before = self.wander
        power = 2 * shaping.slope
        spread = before.mean(lambda likeness: shaping.spread(likeness, before.noise), power)
        fresh = left * self._fresh(shaping)
        after = before.scaled(shaping.slope).plus(fresh / self.count / self.phases)
        after = after.plus(self.unsure**2 * shaping.fourth)
        # Var(f_a·f_b) = 1 + spread − likeness², less what all pairs have in common.
        alike = before.mean(lambda likeness: shaping.likeness(likeness).square(), power)
        steep = before.mean(lambda likeness: shaping.steepness(likeness).square())
        noise = (
            steep * before.noise / self.groups + (1 + spread - alike * (1 + spread)) / self.count
        )
        shaped = self._of_all_phases(after, shaping.mean_share).mapped(shaping.likeness)
        same = before.same.clamp_min(0) ** shaping.slope
        one = torch.ones((), dtype=torch.float64)
        alone, common = float(shaping.spread(one, 0.0)), spread
        if self.of_inputs:  # of each input, the square and what is known of the line are settled
            mean = max(before.mean(torch.clone, power=1.0), 1e-9)
            unknown = shaping.tilt * (1 - min(self.known_mean / mean, 1.0))
            alone, common = left * (unknown + float(shaping.beyond(one, 0.0))), fresh
        lengths = (
            shaping.slope**2 * before.lengths / self.groups + max(alone - common, 0.0) / self.count
        )
        noise = min(max(noise, 0.0), 1.0)
        same = same / same.mean()
        return replace(shaped, same=same, noise=noise, lengths=lengths, skew=shaping.skew)

    def _of_all_phases(self, wander: Wander, mean_share: float) -> Wander:
        """Let pairs of points that meet different weights have their mean in common alone."""
        if self.phases <= 1:
            return wander
        far, within = (self._met(part, mean_share) for part in (wander.far, wander.within))
        return replace(wander, far=far, within=within)

    def _met(self, likeness: Tensor, mean_share: float) -> Tensor:
        """Let one of so many pairs as there are phases meet, be they alike or not."""
        phases = round(self.phases)
        order = likeness.flatten(1).mean(1).argsort() if likeness.dim() > 1 else likeness.argsort()
        met = torch.full_like(likeness, mean_share)
        some = order[min(phases // 2, len(order) - 1) :: phases]
        met[some] = likeness[some]
        return met

    def _fresh(self, shaping: Shaping) -> float:
        """Return what is not known beforehand of the relative variance of one unit's f(z)².

        Its line and its square in z come from the mean and the mean square of z, of which some is
        known. Likeness is share + (1 − share)·ρ, share that of the mean of z, which wanders
        nowhere.
        """
        seen, share = self.wander, shaping.mean_share
        mean = seen.mean(torch.clone, power=1.0) - share
        known_mean = max(self.known_mean - share, 0.0)
        of_line = shaping.tilt * max(mean - known_mean, 0.0) / (1 - share)
        square = seen.mean(torch.square) + seen.noise - share * share - 2 * share * mean
        known = max(self.known / 2 - share * share - 2 * share * known_mean, 0.0)
        of_square = 2 * shaping.slope**2 * max(square - known, 0.0) / (1 - share) ** 2
        beyond = seen.mean(lambda likeness: shaping.beyond(likeness, seen.noise), shaping.growth)
        if self.settled:
            beyond = max(beyond - self._of_size(shaping), _UNKNOWN_AT_LEAST * beyond)
            beyond += self._of_skew(shaping)
        return of_line + of_square + beyond

    def _of_skew(self, shaping: Shaping) -> float:
        """Return what the third powers of likeness and of lengths add where numbers are skewed.

        E[(mean z³)²] = 6·mean(ρ³) + 9·mean(ρ·l_a·l_b), l the points' square lengths. Of points of
        n independent skewed numbers, whose likeness has variance v = 1/n, these are 6·skew·v² and
        9·skew·v². A direction in n dimensions has less of both, as its cubes vary less than those
        of Gaussian numbers.
        """
        square = min(max(self.settled / 2 - self.wander.share, 0.0), _MOST_SKEWED)
        n = 2 / self.settled
        left = (15 * n * n / ((n + 2) * (n + 4)) - 18 * n / (n + 2) + 9) / 6
        third = float(shaping.squares[3]) / shaping.second**2
        return left * (1 + 1.5 * left) * self.wander.skew * square**2 * third

    def _of_size(self, shaping: Shaping) -> float:
        """Return what the size of a unit explains of the fourth term, where all have one.

        Of M the points' second moments, the fourth ones of Gaussian points are 3·sym(M⊗M): then
        E[z⁴] is 3·size² in every unit, and nothing is left of 3R² + 6·tr(M⁴) = E[likeness⁴].
        With R = tr(M²), tr(M⁴) is at least R³, and points stand in M as their lengths have it.
        """
        alike = self.wander.mean(torch.square)
        longer = float(self.wander.same.square().mean())
        gaussian = 3 * alike**2 * (2 * longer - 1) - 6 * alike**3
        there = self.wander.mean(lambda likeness: likeness**4, power=4.0)
        return max(min(gaussian, there), 0.0) * float(shaping.squares[4]) / shaping.second**2
