"""Units that were drawn just now, and what a function of them does to how far they wander."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from handwave.chances import Told, left_open, skew_kept
from handwave.crossings import Crossed
from handwave.lengths import Terms
from handwave.shaping import Shaping
from handwave.wandering import ITSELF, Wander


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
        flatter: of the mean square of likeness, what is left of it since all units have one size.
        of_inputs: relative variance of an input's mean square over its units, which a norm has
            taken away likewise.
        explained: where a norm over the batch has settled sizes, the square of what the weights'
            own mean tells of the mean of all points times their lengths.
        uneven: tr(M⁴)/tr(M²)³ of the second moments M of points around their mean; 1 where they
            are spread evenly over some dimensions, or nobody knows.
        together: of how many units a norm has settled that of an input.
        products: that one of them sums, with one set of weights.
        covariance: of what one of them sees, over the points, up to a factor; known of the
            model's own input.
        around: likewise, computes how alike the points are around the mean of all.
        groups: of channels, of which each unit sees one: of noise in likeness and in lengths,
            the units together have so much less.
        crossed: of units that stand for a sum of two parts, both.
    """

    wander: Wander
    count: float
    known: float
    known_mean: float = 0.0
    phases: float = 1.0
    settled: float = 0.0
    unsure: float = 0.0
    flatter: float = 1.0
    of_inputs: float = 0.0
    explained: float = 0.0
    uneven: float = 1.0
    together: float = math.inf
    products: float = math.inf
    covariance: Tensor | None = field(default=None, repr=False)
    around: Callable[[], Wander] | None = field(default=None, repr=False)
    groups: float = 1.0
    crossed: Crossed | None = field(default=None, repr=False)

    def of_groups(self, groups: float) -> "Units":
        """Let each unit see one group of channels: likeness over fewer numbers is noisier."""
        return replace(self, wander=self.wander.with_noise(groups, groups), groups=groups)

    @property
    def as_one(self) -> "Units":
        """Forget the parts of a sum; how far it stands off is known altogether."""
        if self.crossed is None:
            return self
        wander = self.wander.plus(self.crossed.cross)
        known = self.wander.of_one_unit
        return replace(self, wander=wander, known=known, crossed=None)

    @property
    def of_norms(self) -> float:
        """Return the relative variance of what a point's square is divided by, settled by norms."""
        return (1 + self.settled) * (1 + self.of_inputs) - 1

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
        before, each = self.wander, self._each and shaping.at is not None
        settled = self.settled > 0 or self.of_inputs > 0
        terms = Terms.of(before, shaping, each, settled)
        spread = terms.spread
        told = Told(
            self.known, self.known_mean, self.settled, self._size_left, self.explained, self.uneven
        )
        fresh = left * left_open(before, shaping, terms, told)
        slope = shaping.together.slope if shaping.together else terms.slope
        after = before.scaled(slope).plus(fresh / self.count / self.phases)
        after = after.plus(self.unsure**2 * shaping.fourth)
        after = self.met(after, shaping.mean_share).mapped(shaping.likeness)
        alone = self._alone(shaping, left, (spread, fresh)) / self.count
        return replace(
            after,
            same=terms.same,
            **self._noise(shaping, after, spread),
            lengths=terms.slope**2 * before.lengths / self.groups + alone,
            skew=terms.skew + skew_kept(before) * before.skew,
        )

    @property
    def _each(self) -> bool:
        """Tell whether every pair is taken at its own length.

        Behind a norm over the units of one position line and square cancel: a sample of pairs
        tells no lengths.
        """
        positions = self.wander.far[0].numel()
        return not self.of_inputs or (positions > 1 and self.together < math.inf)

    @property
    def _size_left(self) -> float:
        """Return what is left of the square of the variance of a unit's mean square.

        Of U units with r degrees of freedom each, whose mean square together is settled, each has
        a share with the law of Beta: its variance 2/r becomes (U − 1)/(U·r/2 + 1).
        """
        if not self.of_inputs or self.together == math.inf:
            return 1.0
        units, unlike = max(self.together - 1, 1.0), self.wander.of_one_unit
        return ((units - 1) / (units + unlike)) ** 2

    def _noise(self, shaping: Shaping, after: Wander, spread: float) -> dict[str, float]:
        """Return the variance of one likeness of all f(z) together, and what of it is its own.

        Var(f_a·f_b) = 1 + spread − likeness², less what all pairs have in common; without the
        mean over all points, it is that of Gaussian numbers.
        """
        before = self.wander
        alike = before.mean(lambda likeness: shaping.likeness(likeness).square(), 2 * shaping.slope)
        steep = before.mean(lambda likeness: shaping.steepness(likeness).square()) / self.groups
        noise = steep * before.noise + (1 + spread) * (1 - alike) / self.count
        left = max(1 - after.mean(torch.clone, power=1.0), 0.0)
        own = steep * before.own_noise + left * left / self.count
        echo = before.mean(shaping.steepness) / self.groups * before.echo
        return {"noise": min(max(noise, 0.0), 1.0), "own_noise": min(own, 1.0), "echo": echo}

    def _alone(self, shaping: Shaping, left: float, common: tuple[float, float]) -> float:
        """Return the relative variance of f(z)² in one point, less what all points have in common.

        Args:
            shaping: what f does to likeness.
            left: share of what is beyond the square of z that a norm over units has left.
            common: of all of f(z)², and of what is not known of it.
        """
        spread, fresh = common
        if not self.of_inputs:
            return max(float(shaping.spread(ITSELF, 0.0)) - spread, 0.0)
        # Of each input, the square and what is known of the line are settled.
        mean = max(self.wander.mean(torch.clone, power=1.0), 1e-9)
        line = shaping.tilt * (1 - min(self.known_mean / mean, 1.0))
        return max(left * (line + float(shaping.beyond(ITSELF, 0.0))) - fresh, 0.0)

    def met(self, wander: Wander, mean_share: float) -> Wander:
        """Let pairs of points that meet different weights have their mean in common alone."""
        if self.phases <= 1:
            return wander
        far, within = (self._met(part, mean_share) for part in (wander.far, wander.within))
        near = torch.full_like(wander.near, mean_share)  # neighbours never meet the same weights
        return replace(wander, far=far, within=within, near=near)

    def _met(self, likeness: Tensor, mean_share: float) -> Tensor:
        """Let one of so many pairs as there are phases meet, be they alike or not."""
        phases = round(self.phases)
        order = likeness.flatten(1).mean(1).argsort() if likeness.dim() > 1 else likeness.argsort()
        met = torch.full_like(likeness, mean_share)
        some = order[min(phases // 2, len(order) - 1) :: phases]
        met[some] = likeness[some]
        return met
