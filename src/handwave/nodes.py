"""One call of a layer, or one step between layers, and what was seen of it."""

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from math import inf

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from handwave.expecting import Expected
from handwave.moments import Moments
from handwave.norms import BATCH_NORMS, by_batch
from handwave.streams import Step
from handwave.sums import bias_moments, is_sum
from handwave.traces import Layer

# A second moment beyond this factor from 1 is not what a norm of weights 1 makes; and how near to
# another one is the same.
_OTHER, _SAME = 4.0, 0.1

# Where a bounded function is looked at, and what it then is below.
_FAR_OUT = torch.tensor([-1e6, -1e3, -30.0, -3.0, 3.0, 30.0, 1e3, 1e6])
_BOUNDED = 10.0


@dataclass(frozen=True)
class Facts:
    """Hold what was seen of one call besides its row.

    Args:
        node: its number among layers and steps.
        sources: the nodes that its input came from.
        entering: moments of its first floating input; None without one.
        entering_spread: variance of that across the batch; None for a single input.
        expected: what the layer should have made of it; None without theory.
        largest: absolute value in the output.
        at_the_ends: share of the output's entries at an end of the activation's range.
        known: whether all that entered came from nodes or from outside.
        normed: whether a norm that it called as a function made its output.
        varied: of whole numbers that enter, whether these differ between inputs.
    """

    node: int
    sources: frozenset[int]
    entering: Moments | None
    entering_spread: float | None
    expected: Expected | None
    largest: float
    at_the_ends: float
    known: bool = True
    normed: bool = False
    varied: bool | None = None

    @property
    def apart(self) -> float:
        """Return the variance across what enters: of the inputs, or of a single one's entries."""
        if self.entering_spread is not None:
            return self.entering_spread
        return self.entering.var if self.entering else 0.0


@dataclass(frozen=True)
class Node:
    """Be one call of a layer, or one step between layers: these have no row and no facts.

    A sum that no layer takes, and that is not returned either, is on the way to another one, or
    beside the way: a moving average, a loss.
    """

    number: int
    sources: frozenset[int]
    signal: Moments
    units: float
    module: nn.Module | None = None
    row: Layer | None = None
    facts: Facts | None = None
    step: Step | None = None
    aside: bool = False

    @property
    def parts(self) -> tuple[frozenset[int], frozenset[int]] | None:
        """Return the nodes that both parts of a sum came from."""
        return self.step.parts if self.step else None

    @property
    def zeros(self) -> float:
        """Return the share of zeros in the output of a layer or an activation."""
        return self.step.zeros if self.step else (self.row and self.row.zeros) or 0.0

    @property
    def at_the_ends(self) -> float:
        """Return the share of an activation's output at an end of its range."""
        return self.step.at_the_ends if self.step else self.facts.at_the_ends if self.facts else 0.0

    @property
    def multiplies(self) -> bool:
        """Tell a layer that sums products with a weight."""
        return self.module is not None and is_sum(self.module)

    @property
    def attends(self) -> bool:
        """Tell attention, which sums products with four weights."""
        return isinstance(self.module, nn.MultiheadAttention)

    @property
    def normalizes(self) -> bool:
        """Tell a normalization, one that a user wrote too: by what it calls, or by its name."""
        if self.aside or self.module is None:
            return False
        if self.facts and self.facts.normed:
            return True
        named = "Norm" in type(self.module).__name__
        return named and not self._remembers and not self._hands_on

    @property
    def _remembers(self) -> bool:
        """Tell a norm that uses numbers kept from earlier."""
        return isinstance(self.module, BATCH_NORMS) and not by_batch(self.module)

    @property
    def _hands_on(self) -> bool:
        """Tell what is of another size than 1, and of that size when it comes in already."""
        entering, size = self.facts and self.facts.entering, self.signal.second_moment
        if not entering or not entering.second_moment or 1 / _OTHER < size < _OTHER:
            return False
        return abs(size / entering.second_moment - 1) < _SAME

    @property
    def large_bias(self) -> bool:
        """Tell a bias of three times torch's default variance, 1/(3 fan_in), and more."""
        if self.module is None or self.row is None or self.row.fan_in is None:
            return False
        return bias_moments(self.module).second_moment * self.row.fan_in > 1

    @property
    def mostly_bias(self) -> bool:
        """Tell an output of which a bias makes half of the second moment or more."""
        bias = bias_moments(self.module).second_moment if self.module else 0.0
        return 2 * bias > self.signal.second_moment

    @cached_property
    def bound(self) -> float:
        """Return what an activation never exceeds; infinite for all else."""
        module, plain = self.module, not self.normalizes and not self.multiplies
        if module is None or not plain or any(True for _ in module.parameters()):
            return inf
        try:  # on a copy, past its hooks: it may take notes
            found = copy.deepcopy(module).forward(_FAR_OUT).abs()
            held = found.shape == _FAR_OUT.shape and bool((found <= _BOUNDED).all())
            return float(found.max()) if held else inf
        except (Exception, SystemExit):  # whatever a module raises that takes no eight numbers
            return inf

    @property
    def counts(self) -> bool:
        """Tell where scales are compared; everything else is on the way."""
        return self.multiplies or self.attends or (self.parts is not None and not self.aside)

    @property
    def positions(self) -> float:
        """Return the entries of one unit, for one input."""
        if self.row is None:
            return self.units
        if isinstance(self.module, _ConvNd):
            return float(math.prod(self.row.shape[-len(self.module.kernel_size) :]))
        return self.units / (self.row.fan_out or 1.0)
