"""One of the two parts of a sum: a function of Gaussian units."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from handwave.crossings import nodes
from handwave.lengths import lengths
from handwave.mixtures import Below
from handwave.quadrature import Elementwise
from handwave.shaping import Shaping
from handwave.signals import Signal, same, shaping
from handwave.units import Units
from handwave.wandering import CLASSES, Wander

_LOOKS = 401  # nodes at which a line is told
_STRAIGHT = 1e-9  # of a deviation, by which a line may bend from node to node


@dataclass(frozen=True)
class Addend:
    """Hold a part as a function of its Gaussian units.

    Args:
        signal: the part.
        function: that was put on the units.
    """

    signal: Signal
    function: Elementwise

    @classmethod
    def of(cls, signal: Signal) -> "Addend | None":
        """Read it off a signal; None where it is no function of Gaussian units."""
        if signal.function is not None:
            return cls(signal, signal.function)
        law = signal.largest and signal.largest.law
        return cls._of_largest(signal, law) if law else None

    @classmethod
    def _of_largest(cls, signal: Signal, law: Elementwise) -> "Addend":
        """Put the largest of windows down as a function of one Gaussian, as they are alike."""
        units, moments = signal.units, signal.moments
        wander = Below(Shaping.of(law, 0.0, 1.0)).of_pairs(signal.wander)
        # Not the likeness of windows: that of neighbours differs from unit to unit.
        wander = replace(wander, noise=0.0, own_noise=0.0, lengths=units.wander.lengths)
        mean, second = wander.mean(torch.clone, power=1.0), signal.second / moments.second_moment
        units = Units(wander, units.count, wander.of_one_unit, known_mean=mean)
        base = replace(signal, mean=0 * second, second=second, units=units, function=same)
        return cls(replace(signal, base=base, function=law), law)

    @property
    def base(self) -> Signal:
        """Return the units."""
        return self.signal.base or self.signal

    @cached_property
    def series(self) -> Shaping:
        """Expand the function."""
        return shaping(self.function, self.base)

    def at_nodes(self, function: Elementwise, count: int) -> Tensor:
        """Return a function of the units at so many values of them."""
        law = self.base.moments
        return function(law.mean + law.std * nodes(count))

    @cached_property
    def straight(self) -> bool:
        """Tell a part that is Gaussian: a line over its units."""
        if self.function is same:
            return True
        bends = self.at_nodes(self.function, _LOOKS).diff(n=2).abs()
        return float(bends.max()) <= _STRAIGHT * self.signal.moments.std

    def correlated(self) -> Wander:
        """Take the mean of the units, and the lengths of points, out of how alike they are."""
        seen = self.base.units.wander
        long = lengths(seen)
        made = {
            name: (self.series.unbounded(getattr(seen, name)) / long.get(name, 1.0)).clamp(-1, 1)
            for name in CLASSES
        }
        return replace(seen, **made)

    def steep(self, power: int = 1) -> float:
        """Average the slope of likeness by that of the units, or a power of it, over all pairs."""
        return self.base.units.wander.mean(lambda alike: self.series.steepness(alike) ** power)

    @property
    def open(self) -> float:
        """Return what is not known of the mean correlation of units, or counts as much as that."""
        if self.straight:
            return self._open
        line = float(self.series.values[1])
        return self.open_mean / line if line else 0.0

    @cached_property
    def open_mean(self) -> float:
        """Return what is not known of the mean of E[y_a·y_b] over all pairs of points."""
        units = self.base.units
        if self.straight:
            return self._open * self.signal.moments.var
        if self.signal.largest:
            return self._of_size
        if units.crossed:
            return units.crossed.open_mean(self.function)
        if units.settled:
            return max(units.wander.mean(self.series.bent, power=1.0), 0.0)
        return float(self.series.values[1]) * self._open

    @property
    def _open(self) -> float:
        units, law = self.base.units, self.base.moments
        if units.settled:
            return 0.0
        mean = law.mean**2 / (law.second_moment or 1.0)
        open_ = units.wander.mean(torch.clone, power=1.0) - max(units.known_mean, mean)
        return max(open_, 0.0) / (1 - mean or 1.0)

    @property
    def _of_size(self) -> float:
        """Return the variance of a unit's mean, if that makes what its second moment varies by."""
        signal = self.signal
        law, fresh = signal.moments, signal.wander.cumulants[1] - signal.units.wander.cumulants[1]
        share = law.mean**2 / law.second_moment
        return fresh * signal.units.count * law.second_moment / (4 * share) if share else 0.0
