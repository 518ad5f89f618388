"""What a function makes of each entry of a signal, and of the gradient that comes back."""

import copy
from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn

from handwave.activations import elementwise
from handwave.moments import Moments
from handwave.panels import of_each, variances
from handwave.pooling import pool
from handwave.positions import shaped
from handwave.quadrature import Elementwise
from handwave.settling import left, of_points, of_settled, taken
from handwave.shaping import Shaping
from handwave.signals import (
    Backward,
    Feedback,
    Largest,
    NoTheoryError,
    Signal,
    of_input,
    shaping,
)
from handwave.wandering import Wander


def activation(layer: nn.Module, signal: Signal) -> tuple[Signal, Backward]:
    """Put a function on Gaussian units, by quadrature; on the model's own input, as it stands.

    On the largest of windows, as if it came before these were taken: a rising function does not
    change which one is the largest.
    """
    if signal.largest:
        return _on_largest(layer, signal.largest)
    try:
        bare = without_hooks(layer)
        value, slope = elementwise(bare)[0], elementwise(bare, derivative=True)[0]
        if signal.sample is not None:
            return _on_sample(value, slope, signal)
        if signal.function is None:
            raise NoTheoryError("no theory: what enters is not Gaussian")
        return _on_units(value, slope, signal)
    except NoTheoryError:
        raise
    except (TypeError, ValueError) as error:
        # What torch says of a probe that it cannot take tells nothing about the signal.
        reason = "" if error.__cause__ else f": {error}"
        raise NoTheoryError(f"no theory{reason}") from error


def _on_largest(layer: nn.Module, came: Largest) -> tuple[Signal, Backward]:
    """Put a function on all positions first, and take the largest of each window then."""
    before = came.before
    # What it lets through together with a function in front is told below.
    after = activation(layer, replace(before, feedback=Feedback()))[0]
    largest, feedback = pool(came.layer, after)[0], after.feedback
    told, inner = before.feedback, before.function
    slope = elementwise(without_hooks(layer), derivative=True)[0]
    assert told.expected
    assert inner
    own = told.expected(lambda z: slope(inner(z)).square())
    # What both functions let through together is not what each does.
    told.again *= feedback.slopes / (own * told.slopes) if own and told.slopes else 0.0
    return largest, lambda gradient: gradient * (own * feedback.again)


def without_hooks(layer: nn.Module) -> nn.Module:
    """Copy a layer, on the surface only; its hooks are for real signals, not for quadrature."""
    bare = copy.copy(layer)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(bare, name, OrderedDict())
    return bare


def _on_units(value: Elementwise, slope: Elementwise, signal: Signal) -> tuple[Signal, Backward]:
    base, inner = signal.base or signal, signal.function or value

    def function(z: Tensor) -> Tensor:
        return value(inner(z))

    def steep(z: Tensor) -> Tensor:
        return slope(inner(z))

    before = signal.feedback.slope
    points = of_points(base.units, base.moments.var)
    mean, second = _by_position(function, base, points)
    made = replace(signal, mean=mean, second=second).moments
    factor = _by_position(steep, base, points)[1]
    signal.feedback.passed = _passed(steep, float(factor.mean()), signal, points)
    series = shaping(function, base)
    law = base.moments
    rho = (base.common - law.mean**2) / law.var if law.var else 0.0
    after = replace(
        signal,
        mean=mean,
        second=second,
        common=series.product(max(-1.0, min(rho, 1.0))),
        wander=_wander(function, series, base, made),
        function=function,
        base=base,
        taken=0.0,
        feedback=(
            feedback := Feedback(slope=lambda z: steep(z) * before(z) if before else steep(z))
        ),
    )

    def back(gradient: Tensor) -> Tensor:
        return gradient * (factor * feedback.steeper * feedback.again * feedback.passed)

    return after, back


def _wander(function: Elementwise, series: Shaping, base: Signal, made: Moments) -> Wander:
    """Follow how alike f(z) are, and how far their second moment, pooled, stands off."""
    units, law = base.units, base.moments
    wander = units.through(series, left(function, law, units.of_inputs))
    if units.wander.known and law.std and made.second_moment:
        # Where f grows with z, units of large z had counted most.
        seen = units.wander.flattened(units.flatter ** min(series.slope**2, 1.0))
        seen = units.met(seen, series.mean_share)
        wander = replace(wander, **shaped(seen, series, made, units.settled, taken(units, seen)))
    return replace(wander, **units.crossed.likeness(function, wander)) if units.crossed else wander


def _passed(
    steep: Elementwise, square: float, signal: Signal, points: tuple[Tensor, Tensor | None]
) -> float:
    """Return E[f′²·g′²]/(E[f′²]·E[g′²]), of f and of the function g in front, in a sum maybe.

    Args:
        steep: f′.
        square: E[f′²].
        signal: what f is put on.
        points: of the Gaussian units, as `of_points` has them.
    """
    before, base = signal.feedback.slope, signal.base or signal
    if before is None or not square:
        return base.units.crossed.passed(steep) if base.units.crossed else 1.0
    both, alone = (
        float(_by_position(fn, base, points)[1].mean())
        for fn in (lambda z: steep(z) * before(z), before)
    )
    return both / (square * alone) if alone else 1.0


def _on_sample(value: Elementwise, slope: Elementwise, signal: Signal) -> tuple[Signal, Backward]:
    """Use the input itself: it need not be Gaussian."""
    sample = signal.sample
    assert sample is not None
    factor = Moments.of(slope(sample.double())).second_moment
    return of_input(value(sample.double()).to(sample.dtype)), lambda gradient: gradient * factor


def _by_position(
    function: Elementwise, base: Signal, points: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Return mean and second moment of function(z) at every position."""
    table = torch.stack(torch.broadcast_tensors(base.mean, base.second))  # (2, *map)
    # Rounding alone tells apart what symmetry makes equal.
    rows = table.reshape(2, -1).T.to(torch.float32)
    alike, place = torch.unique(rows, dim=0, return_inverse=True)
    means, seconds = alike.double().T
    units, shape, settled = base.units, table[0].shape, base.units.of_norms
    made = of_each(function, means, seconds, 0.0 if settled else units.unlike)[place]
    mean, second = made.T.reshape(2, *shape)
    if not settled:
        return mean, second
    shift, factor = _of_all_lengths(function, base, points)
    return mean + shift, second * factor


def _of_all_lengths(
    function: Elementwise, base: Signal, points: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Return by how much E[f(z)] moves at every position, and what E[f(z)²] is multiplied by.

    Points have all lengths that they have, and z the law of settled ones.
    """
    law, wander, settled = base.moments, base.units.wander, base.units.of_norms
    gaussian = of_settled(function, law.mean, law.var * wander.same.clamp_min(0).mean(0), 0.0)
    made, (var, shares) = torch.zeros_like(gaussian), points
    for at, part in variances(wander.lengths + wander.cumulants[1]):
        made += part * of_settled(function, law.mean, at * var, settled, shares).mean(1)
    shift, factor = made[0] - gaussian[0], made[1] / gaussian[1]
    return shift, factor.where(gaussian[1] > 0, 1.0)
