"""What two windows of a convolution have in common: how alike the places are that both see."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from handwave.ends import Ends
from handwave.pairs import moved, neighbours, turns


def of_pairs(
    likeness: Tensor, places: Tensor, middle: Tensor, ends: Ends, stride: Sequence[int] | None
) -> Tensor:
    """Add up likeness over the places that both windows of a pair see.

    Pairs are of positions so many apart around the edges of the map; windows are not. Of a window
    that such an edge goes through, the places on the side of its middle stand for the others.

    Args:
        likeness: of positions; (pairs, *map).
        places: which position each window sees at each of its places, counted from 1, and 0 where
            it reaches over the edge; (places, *map of windows).
        middle: likewise, in the middle of each window; (*map of windows).
        ends: of the pairs.
        stride: along each axis, what windows are apart that meet the same weights.

    Returns:
        Shape (pairs, *map of windows).
    """
    flat, sides = (pad(each.flatten(1), (1, 0)) for each in (likeness, ends.sides(likeness)))
    here, shape = sides[:, middle], (len(likeness), *middle.shape)
    every, on_side, count, both = (torch.zeros(shape, dtype=likeness.dtype) for _ in range(4))
    for place in places:
        seen, inside = flat[:, place], (place > 0).to(likeness.dtype)
        along = (sides[:, place] == here) * inside
        every += seen
        on_side += along * seen
        count += along
        both += inside * ends.moved(inside.expand(shape), stride)
    plain = every / (places > 0).sum(0).clamp_min(1)
    return both * torch.where(count > 0, on_side / count.clamp_min(1), plain)


def of_neighbours(likeness: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Add up likeness over the places that neighbouring windows see both.

    Args:
        likeness: of neighbours, in each direction in turn; (pairs, *map).
        places: as for `of_pairs`.

    Returns:
        The sum, and which share of the places of a window it is of; (pairs, *map of windows).
    """
    flat, kinds = pad(likeness.flatten(1), (1, 0)), neighbours(places.dim() - 1)
    order = turns(len(likeness), len(kinds))
    total = torch.zeros(len(likeness), *places.shape[1:], dtype=likeness.dtype)
    share = torch.zeros_like(total)
    for place in places:
        inside = (place > 0).to(likeness.dtype)
        both = torch.stack([inside * moved(inside, kind) for kind in kinds])[order]
        total += flat[:, place] * both
        share += both
    return total, share / (places > 0).sum(0).clamp_min(1)
