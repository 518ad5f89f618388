"""Walk through a tree of modules, and say what each layer makes of the signal."""

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from handwave.additions import added
from handwave.followings import kept
from handwave.laws import apply_law
from handwave.moments import Moments
from handwave.restarts import restart
from handwave.running import (
    Inputs,
    arguments,
    kind,
    own_class,
    rows,
)
from handwave.shapes import as_written, shape_behind
from handwave.signals import (
    Backward,
    NoTheoryError,
    Signal,
    number,
    of_input,
    of_moments,
)
from handwave.stacks import Residual
from handwave.sums import is_sum
from handwave.traces import COVERAGE, Layer
from handwave.weights import known_fans

# What a module of several that is none of them is told.
_ANEW = "the scale begins anew; bands from here on take all inputs for alike"
_WALKED = (
    "no theory: only nn.Sequential and Residual are walked through; audit predicts the layers of "
    "any model"
)

# From the gradient at an output to that at the input; None: not known.
_Back = Callable[[Tensor | None], Tensor | None]


def walked(model: nn.Module, inputs: Inputs | Moments, backward: bool) -> tuple[Layer, ...]:
    """Follow the signal through a model, and if asked for a gradient back; return the rows.

    Args:
        model: the module.
        inputs: one tensor, or the moments of what enters.
        backward: whether a gradient comes back.
    """
    walker = _Walker(model)
    _, back = walker.walk(model, "", _start(inputs))
    if backward:
        back(number(1.0))
    return tuple(walker.rows)


def _start(inputs: Inputs | Moments) -> Signal | None:
    """Read the signal that enters; None where it is not one tensor."""
    if isinstance(inputs, Moments):
        return of_moments(inputs)
    args, kwargs = arguments(inputs)
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if len(tensors) != 1 or not tensors[0].numel():
        return None
    return of_input(tensors[0].detach().cpu())


class _Walker:
    """Walk through a tree of modules in call order, a row a layer."""

    def __init__(self, model: nn.Module) -> None:
        self.rows: list[Layer] = []
        self.names = rows(model)
        self.calls: dict[nn.Module, int] = {}
        self.unknown = ""  # the row behind which nothing is known
        self.lost = False  # not even that it is finite
        self.shape: tuple[int, ...] | None = None  # of what enters the next layer
        self.behind_sum = False  # whether the layer in front of it sums products

    def walk(
        self, module: nn.Module, name: str, signal: Signal | None
    ) -> tuple[Signal | None, _Back]:
        """Follow the signal through a module; return it, and the gradient's way back."""
        # Without children it is a row, as an identity.
        if own_class(module).forward is nn.Sequential.forward and len(module._modules):
            return self._chain(module, name, signal)
        if isinstance(module, Residual):
            return self._residual(module, name, signal)
        return self._layer(module, name, signal)

    def _chain(
        self, module: nn.Module, name: str, signal: Signal | None
    ) -> tuple[Signal | None, _Back]:
        backs: list[tuple[_Back, float]] = []
        # Not named_children, which leaves a module out that stands here twice.
        children = [(own, child) for own, child in module._modules.items() if child is not None]
        modules = [child for _, child in children]
        for place, (child_name, child) in enumerate(children, start=1):
            signal, back = self.walk(child, f"{name}.{child_name}".lstrip("."), signal)
            backs.append((back, kept(child, signal, modules[place:])))

        def through(gradient: Tensor | None) -> Tensor | None:
            for back, left in reversed(backs):
                gradient = back(gradient)
                gradient = None if gradient is None else gradient * left
            return gradient

        return signal, through

    def _residual(
        self, module: Residual, name: str, signal: Signal | None
    ) -> tuple[Signal | None, _Back]:
        entering = signal and signal.entering
        before = self.unknown
        branch, back = self.walk(module.branch, f"{name}.branch".lstrip("."), entering)
        self.behind_sum = False
        total = None
        if signal is not None and branch is not None:
            if None not in {branch.shape, signal.shape} and branch.shape != signal.shape:
                raise ValueError(
                    f"{name or kind(module)}: Residual adds a branch of shape {branch.shape} "
                    f"to what entered it, of shape {signal.shape}; give both the same shape"
                )
            if branch.drawn:
                total = added(signal, branch)
            else:
                self.unknown = "a sum of dependent parts"
        # A normalization in the branch sets its scale anew, not that of the sum.
        self.unknown = self.unknown or ("" if total else before)

        def both(gradient: Tensor | None) -> Tensor | None:
            of_branch = back(gradient)
            if signal is None or total is None or gradient is None or of_branch is None:
                return None
            # What let the sum through let through what entered it, more often than not.
            summed = gradient + of_branch
            along = float(gradient.mean() / (summed.mean() or 1.0))
            signal.feedback.again *= 1 + along * (total.feedback.passed - 1)
            return summed

        return total, both

    def _layer(
        self, module: nn.Module, name: str, signal: Signal | None
    ) -> tuple[Signal | None, _Back]:
        own = self._name(module, name)
        after, law_back, note = self._law(module, own, signal)
        self.behind_sum = _sums(module)
        place = len(self.rows)
        self.rows.append(_row(module, own, after, note))

        def back(gradient: Tensor | None) -> Tensor | None:
            if gradient is None:
                return None
            self.rows[place] = replace(self.rows[place], grad=Moments(0.0, float(gradient.mean())))
            return None if law_back is None else law_back(gradient)

        return after, back

    def _law(
        self, module: nn.Module, name: str, signal: Signal | None
    ) -> tuple[Signal | None, Backward | None, str]:
        """Apply the layer's law, or say why there is none."""
        note = f"no theory behind {self.unknown}" if self.unknown else "no theory"
        try:
            if signal is not None:
                self.shape = signal.shape
                after, back = apply_law(module, signal)
                if after.finite:
                    self.shape = after.shape
                    return after, back, ""
                note, self.lost = "no theory: numbers that are not finite, or beyond float64", True
        except NoTheoryError as error:
            note = str(error)
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
        if note == "no theory" and module not in self.names:
            note = _WALKED
        return self._anew(module, name), None, note if self.unknown else _ANEW

    def _anew(self, module: nn.Module, name: str) -> Signal | None:
        """Begin again at a norm, if nothing but the shape is known of what enters it."""
        try:
            self.shape = shape_behind(module, self.shape)
            after = None if self.lost else restart(module, self.shape, self.behind_sum)
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
        self.unknown = "" if after else self.unknown or name
        return after

    def _name(self, module: nn.Module, path: str) -> str:
        """Name a call as `measure` does."""
        call = self.calls[module] = self.calls.get(module, 0) + 1
        name = self.names.get(module, path or kind(module))
        return name + (f"#{call}" if call > 1 else "")


def _sums(module: nn.Module) -> bool:
    """Tell a layer that hands on sums of products, as they are."""
    weight = getattr(module, "weight", None)
    return (
        is_sum(module) and as_written(module) and isinstance(weight, Tensor) and bool(weight.any())
    )


def _row(module: nn.Module, name: str, signal: Signal | None, note: str) -> Layer:
    """Make a row of what is known."""
    weight = getattr(module, "weight", None)
    known = isinstance(weight, Tensor) and weight.is_floating_point() and weight.numel()
    counted = known_fans(module)
    law, band, shape = Moments(math.nan, math.nan), None, ()
    if signal is not None:
        law, shape = signal.moments, signal.shape or ()
    # What wanders nowhere, not by rounding even, was assumed; only nothing at all is exact.
    sure = signal is not None and (signal.wander.cumulants[1] > 0 or law.second_moment == 0)
    if signal is not None and sure and math.isfinite(law.second_moment):
        band = signal.wander.band(law.second_moment, COVERAGE)
    return Layer(
        name=name,
        kind=kind(module),
        shape=shape,
        dtype=weight.dtype if isinstance(weight, Tensor) else None,
        fan_in=counted and counted.fan_in,
        fan_out=counted and counted.fan_out,
        weight=Moments.of(weight) if isinstance(weight, Tensor) and known else None,
        signal=law,
        band=band,
        note=note,
    )
