"""Beginning anew at a norm: its scale is known whatever came in."""

import math
from dataclasses import replace
from typing import Any

from torch import nn

from handwave.moments import Moments
from handwave.norms import BATCH_NORMS, affine, check_channels, checked_tail, over_batch
from handwave.running import own_class
from handwave.signals import Signal, number, same
from handwave.units import Units
from handwave.wandering import one_input

_LARGE_EPS = 1e-3  # beyond it, what a norm hands on depends on what came in


def restart(layer: Any, shape: tuple[int, ...] | None, of_sums: bool) -> Signal | None:
    """Return what a normalization hands on whatever came in, if its scale is known at all.

    A signal of inputs of which nobody knows how alike they are: as alike as can be.

    Args:
        layer: any layer.
        shape: of its input, None where nobody knows.
        of_sums: whether products were summed right in front, which makes Gaussian units.

    Raises:
        ValueError: the layer would refuse an input of that shape.
    """
    law = own_class(layer)
    sizes = {nn.LayerNorm: "normalized_shape", nn.RMSNorm: "normalized_shape"}
    if law in sizes:
        count = math.prod(layer.normalized_shape)
    elif over_batch(layer):
        count = layer.num_features
    elif law is nn.GroupNorm:
        count = layer.num_channels
    else:
        return None
    weight, bias = affine(layer)
    wander, centred = replace(one_input(), known=False), law is not nn.RMSNorm
    alone = _alone(layer, count, shape)
    if alone is None or (layer.eps or 0.0) > _LARGE_EPS:
        return None
    weight = Moments(0.0, 0.0) if alone else weight
    # Where a mean is taken out, as much of it is known as all inputs have in common.
    units = Units(wander, float(count), 2.0, known_mean=float(centred))
    units = replace(units, **_settled(layer, count, shape))
    mean, second = number(bias.mean), number(weight.second_moment + bias.second_moment)
    plain = of_sums and centred and not weight.var and not bias.second_moment
    plain = plain and (shape is not None or law not in BATCH_NORMS)
    function = same if plain else None
    after = Signal(shape, mean, second, bias.mean**2, wander, units, function, drawn=False)
    if law in sizes:
        checked_tail(layer, after)
    else:
        check_channels(layer, int(count), after)
    return after


def _alone(layer: Any, count: int, shape: tuple[int, ...] | None) -> bool | None:
    """Tell whether a norm takes each number's mean, which is itself; None where nobody knows."""
    law = own_class(layer)
    if law is nn.RMSNorm or law in BATCH_NORMS or count > getattr(layer, "num_groups", 1):
        return False
    if law is nn.GroupNorm:
        return None if shape is None else math.prod(shape[2:]) == 1
    return True


def _settled(layer: Any, count: int, shape: tuple[int, ...] | None) -> dict[str, float]:
    """Say of how many numbers at most a norm has settled the mean square, as `Units` has it."""
    if own_class(layer) not in BATCH_NORMS:
        numbers = count / getattr(layer, "num_groups", 1)
        return {"of_inputs": 2 / max(numbers - 1, 1)}
    return {"settled": 2 / max(math.prod(shape or ()) / count - 1, 1)}
