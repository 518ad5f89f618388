"""Where an activation's output stands at an end of its range, and no gradient passes."""

import math

from torch import Tensor, nn

from handwave.functions import kind_of

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
