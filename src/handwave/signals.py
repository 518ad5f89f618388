"""A signal that is known by its moments alone, on its way through the layers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from handwave.moments import Moments
from handwave.pairs import of_tensor
from handwave.quadrature import Elementwise
from handwave.shaping import IDENTITY, Shaping
from handwave.units import Units
from handwave.wandering import PAIRS, Wander, one_input

_ROUNDING = 3e-7  # relative, of what float32 makes of a mean of squares

# From the second moments of a gradient with respect to an output, position by position, to those
# with respect to the input; None where they are not known.
Backward = Callable[[Tensor], Tensor | None]


class NoTheoryError(ValueError):
    """Say why a layer has no law; the message becomes the note of its row."""


@dataclass
class Feedback:
    """Hold what pooling behind an activation says of the gradient that it will send back.

    Args:
        steeper: E[f'²] where it goes, over that of all entries.
        slopes: E[f'²] where it goes, 1 without an activation.
        again: a factor, for what yet another function behind the pooling makes of it.
        expected: averages a function of z over where it goes.
        slope: derivative of all that was put on the units, as a function of z.
        passed: E[f′²·g′²]/(E[f′²]·E[g′²]), of f behind it and of g: all that was put on the
            units, or, of a sum, on what entered the branch.
    """

    steeper: float = 1.0
    slopes: float = 1.0
    again: float = 1.0
    expected: Callable[[Elementwise], float] | None = None
    slope: Elementwise | None = None
    passed: float = 1.0


@dataclass(frozen=True)
class Largest:
    """Hold where the largest of windows came from.

    Args:
        layer: that took them.
        before: what it took them from.
        law: the function of a standard normal number that has their law; None where its bends
            are too sharp.
    """

    layer: nn.Module
    before: "Signal"
    law: Elementwise | None


@dataclass(frozen=True)
class Signal:
    """Hold what is known of an output over draws of the weights.

    Args:
        shape: of the output, the batch first; None where nobody told.
        mean: E[y], averaged over inputs and units; shape (*map) of positions, or ().
        second: E[y²], likewise.
        common: E[y_i·y_k] of two units of one input.
        wander: how alike the points are, and how far one network may stand off.
        units: the units that were drawn last: y is a function of them.
        function: that function, elementwise; None where y is none of Gaussian units.
        base: the signal of those units, before any function; None where y is it itself.
        sample: the model's own input, as long as nothing random has touched it.
        drawn: whether weights have been drawn on the way.
        taken: of the square of a gradient that is one along the numbers y themselves, what share
            a norm right in front takes out, beyond what it takes of any gradient.
        feedback: what whatever takes this signal may say of its gradient.
        largest: of the largest of windows, where they came from.
    """

    shape: tuple[int, ...] | None
    mean: Tensor
    second: Tensor
    common: float
    wander: Wander
    units: Units
    function: Elementwise | None = None
    base: "Signal | None" = field(default=None, repr=False)
    sample: Tensor | None = field(default=None, repr=False)
    drawn: bool = True
    taken: float = 0.0
    feedback: Feedback = field(default_factory=Feedback, repr=False)
    largest: Largest | None = field(default=None, repr=False)

    @property
    def moments(self) -> Moments:
        """Pool all positions."""
        mean, second = float(self.mean.mean()), float(self.second.mean())
        return Moments(mean, max(second - mean * mean, 0.0) if math.isfinite(second) else second)

    @property
    def finite(self) -> bool:
        """Tell whether the moments are numbers; those of integers are not asked for."""
        integers = self.sample is not None and not self.sample.is_floating_point()
        return integers or math.isfinite(self.moments.second_moment)

    @property
    def map(self) -> tuple[int, ...]:
        """Return the sizes of the axes after (batch, channels)."""
        return () if self.shape is None else self.shape[2:]

    def pooled(self, shape: tuple[int, ...] | None) -> "Signal":
        """Forget the positions: another shape, and one number for all entries."""
        kept = self.second.numel() == 1
        return replace(
            self,
            shape=shape,
            mean=self.mean.mean(),
            second=self.second.mean(),
            function=self.function if kept else None,
            largest=None,
        )

    @property
    def as_one(self) -> "Signal":
        """Forget the parts of a sum, whichever function was put on it."""
        base = self.base and replace(self.base, units=self.base.units.as_one)
        return replace(self, units=self.units.as_one, base=base)

    @property
    def entering(self) -> "Signal":
        """Enter a residual branch, in which weights are to be drawn yet."""
        wander = replace(self.wander, echo=self.wander.own_noise, echoed=1.0)
        return replace(self, drawn=False, feedback=Feedback(), wander=wander)

    @property
    def unit_axis(self) -> int | None:
        """Return the axis of the drawn units; None where there are none, or nobody told."""
        if self.sample is not None or self.shape is None or self.wander.far.numel() == 1:
            return None
        return len(self.shape) - self.wander.far.dim()

    def check_units(self, first: int, last: int) -> None:
        """Refuse what is taken over other axes than that of the units: positions are related.

        Raises:
            NoTheoryError: the units do not lie along one of the axes from `first` to `last`.
        """
        axis = self.unit_axis
        dims = len(self.shape or ())
        if axis is not None and not first % dims <= axis <= last % dims:
            raise NoTheoryError("no theory: it goes along another axis than the units drawn before")

    def summed_along(self, axis: int) -> Wander:
        """Return how alike the points are that a layer sums along an axis."""
        return self.wander if self.sample is None else of_tensor(self.sample, axis)


def same(z: Tensor) -> Tensor:
    """Return what came: the function of units that nothing was put on yet."""
    return z


def number(value: float) -> Tensor:
    """Hold a moment without positions."""
    return torch.tensor(value, dtype=torch.float64)


def fresh(
    shape: tuple[int, ...] | None, mean: Tensor, second: Tensor, common: float, units: Units
) -> Signal:
    """Make the signal of units that were drawn just now, Gaussian by their many products."""
    seen = units.met(units.wander, 0.0)
    # As it is: of points that are longer than others, beyond 1.
    wander = replace(units.through(IDENTITY), **{name: getattr(seen, name) for name in PAIRS})
    return Signal(shape, mean, second, common, wander, units, same)


def of_moments(moments: Moments) -> Signal:
    """Start from a law: independent Gaussian entries, of a shape that nobody told."""
    mean, second = number(moments.mean), number(moments.second_moment)
    units = Units(one_input(), math.inf, 0.0)
    start = fresh(None, mean, second, moments.mean * moments.mean, units)
    return replace(start, drawn=False)


def of_input(x: Tensor) -> Signal:
    """Start from a tensor: its pooled moments, its shape, and how alike its points are."""
    known = Moments.of(x) if x.is_floating_point() and x.numel() else Moments(math.nan, math.nan)
    units = Units(one_input(), math.inf, 0.0)
    mean, second = number(known.mean), number(known.second_moment)
    start = fresh(tuple(x.shape), mean, second, known.mean * known.mean, units)
    # Nothing is left to chance but what the model's own arithmetic rounds.
    rounding = max(_ROUNDING, torch.finfo(x.dtype).eps) if x.is_floating_point() else 0.0
    wander = start.wander.plus(rounding * rounding)
    return replace(start, wander=wander, function=None, sample=x, drawn=False)


def shaping(function: Elementwise, base: Signal) -> Shaping:
    """Expand a function of Gaussian units at the average of their positions."""
    law, crossed = base.moments, base.units.crossed
    made = Shaping.of(function, law.mean, law.std)
    if crossed is None:
        return made
    return replace(made, together=crossed.together(function))
