"""How far a convolution of one draw may stand off, by fresh filters on its own input."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from handwave.twins import twin
from handwave.weights import by_unit

# Filters that are tried, as many as fit: the variance of a mean square is known to 10 %.
_FILTERS, _FEWEST, _ENTRIES = 512, 64, 1 << 25


def own_variance(module: _ConvNd, x: Tensor, squares: Tensor) -> tuple[float, float]:
    """Return the relative variance of one unit's mean square, and that of its mean.

    Each filter is told apart from its own sum of squares: what the mean square of all weights
    explains is known beforehand, and so is how large the input of each group is.

    Args:
        module: a convolution, transposed or not.
        x: its input, scaled into range.
        squares: Σ x² behind an output, (batch, groups, *map).

    Returns:
        Var(q − E[q]·|w|²/E|w|²)/E[q]², q the mean square of one unit over inputs and
        positions, its first expectation that of its group, the others over all groups; and
        E[mean²]/E[q]. Averaged over: fresh Gaussian filters, seeded.
    """
    expected = squares.double().transpose(0, 1).flatten(1).mean(1)  # (groups,)
    whole = float(expected.mean())
    if not whole > 0:
        return 0.0, 0.0
    weight, layer = _fresh(module, x, squares[:, :1].numel())
    made = layer.forward(x).double().transpose(0, 1).flatten(1)  # (units, inputs · positions)
    mean, square = made.mean(1), made.square().mean(1)
    size = weight.double().square().mean(1)
    in_group = expected.repeat_interleave(len(square) // module.groups)
    own = square - in_group - whole * (size - 1)
    return float(own.square().mean()) / whole**2, float(mean.square().mean()) / whole


def _fresh(module: Any, x: Tensor, places: int) -> tuple[Tensor, Any]:
    """Draw filters; return them as (units, weights of one) and a layer that has them."""
    units = max(_FEWEST, min(_FILTERS, _ENTRIES // max(places, 1)))
    units = max(1, math.ceil(units / module.groups))
    shape = list(module.weight.shape)
    turned = isinstance(module, _ConvTransposeNd)
    shape[1 if turned else 0] = units if turned else units * module.groups
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=x.dtype).to(x.device)
    return by_unit(module, weight).flatten(0, 1), twin(module, weight)
