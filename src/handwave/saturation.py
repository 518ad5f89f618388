"""Where an activation's output stands at an end of its range, and no gradient passes."""

import math

from torch import Tensor, nn

from handwave.functions import Applied, kind_of

MASK = -1e3  # and below: what takes a score out of a softmax

# Share of a gate's numbers at its upper end from which on it is saturated, and not just shut.
_OPEN = 0.05

# Where activations end, and how near counts: there the slope is below 2 % of its largest.
_ENDS = {
    nn.Tanh: (-0.99, 0.99),
    nn.Sigmoid: (0.005, 0.995),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Softsign: (-0.86, 0.86),
    nn.ReLU6: (-math.inf, 6.0),  # its lower end is that of every ReLU
}


def at_the_ends(module: nn.Module, output: Tensor) -> float:
    """Return the share of entries at an end of the activation's range; 0 where it has no upper one.

    Args:
        module: any layer, or the function in its place.
        output: what it made; any shape.
    """
    low, high = _ENDS.get(kind_of(module), (0.0, math.inf))  # pyright: ignore
    if kind_of(module) is nn.Hardtanh:
        low, high = module.forward(output.new_tensor([-math.inf, math.inf])).tolist()
    if high == math.inf:
        return 0.0
    outside = (output <= low) | (output >= high)
    return float(outside.double().mean())


def stuck(called: Applied, output: Tensor) -> float:
    """Return that share of what an activation made that was called as a function.

    A gate that is shut for most, of attention say, is no loss: some must stand at its upper end.
    """
    gate = called.kind in {nn.Sigmoid, nn.Hardsigmoid}
    if gate and float((output >= _ENDS[called.kind][1]).double().mean()) < _OPEN:
        return 0.0
    return at_the_ends(called, output)


def dead(given: Tensor, output: Tensor) -> float:
    """Return the share of numbers of an activation that are 0 for all inputs, and were not masked.

    Args:
        given: what it was called on; what is far below all others there was masked.
        output: what it made; without an axis for the inputs, nothing is dead.
    """
    if output.dim() < 2 or given.shape != output.shape:
        return 0.0
    alive = (output != 0) | (given <= MASK)
    return 1 - float(alive.any(0).double().mean())
