"""How alike the points of a batch are, from pairs of them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from handwave.ends import Ends
from handwave.wandering import Wander, one_input

# All pairs of so many vectors; pairs of maps with so many positions together; so many tokens.
_VECTORS, _POSITIONS, _TOKENS = 256, 1 << 17, 4096


def of_tensor(x: Tensor, axis: int) -> Wander:
    """Measure how alike the points of an input are.

    Args:
        x: the input; integers are tokens.
        axis: what layers sum over. What follows it is a map of positions; what precedes it
            counts inputs.
    """
    if not x.is_floating_point():
        return _of_tokens(x)
    points = x.detach().to("cpu", torch.float64).movedim(axis, -1)  # (batch, *map, units)
    maps = x.dim() - 1 - axis % x.dim()
    lead = points.dim() - 1 - maps
    points = points.reshape(-1, *points.shape[lead:])
    square = float(points.square().sum(-1).mean())
    if not (square > 0 and math.isfinite(square)):
        return one_input()
    points = points / math.sqrt(square)
    count = points[..., 0].numel()
    if count == 1:
        return one_input()
    if not maps:
        points = points.reshape(count, 1, -1)
    wander = _of_maps(points, 1 / count) if maps else _of_vectors(points[:, 0], 1 / count)
    wander = replace(wander, skew=_skew(points.reshape(count, -1)))
    return _centred_exactly(wander, points.flatten(1, -2))


def _skew(points: Tensor) -> float:
    """Return the squared skewness of the units over all points, averaged; points (count, units)."""
    rest = points - points.mean(0)
    var = float(rest.square().mean())
    return float(rest.pow(3).mean(0).square().mean()) / var**3 if var > 0 else 0.0


def _centred_exactly(wander: Wander, points: Tensor) -> Wander:
    """Give likeness the mean that it has over all pairs, of which only some are followed.

    Args:
        wander: of some pairs.
        points: all of them, (inputs, positions, units).
    """
    inputs, positions = points.shape[:2]
    centers = points.mean(1)
    whole, within = centers.mean(0), float(centers.square().sum(-1).mean())
    far = (float(whole @ whole) * inputs - within) / max(inputs - 1, 1)
    beside = (within * positions - 1) / max(positions - 1, 1)
    if positions > 1:  # of pairs of different inputs, some are at the same position
        far += (far - float(wander.aligned.mean())) / (positions - 1)
    far, beside = (far if inputs > 1 else beside), (beside if positions > 1 else far)
    return replace(
        wander,
        far=wander.far + (far - wander.far.mean()),
        within=wander.within + (beside - wander.within.mean()),
    )


def _of_tokens(ids: Tensor) -> Wander:
    """Compare tokens: 1 where two are the same, 0 where they are not."""
    counts = ids.unique(return_counts=True)[1].to(torch.float64)
    total = float(counts.sum())
    equal = float((counts * (counts - 1)).sum()) / max(total * (total - 1), 1.0)
    # As often 1 as two places of the input hold the same token.
    far = (torch.arange(_TOKENS, dtype=torch.float64) + 0.5 < equal * _TOKENS).to(torch.float64)
    return Wander(torch.ones(1, dtype=torch.float64), far, far, far, far, 1 / total)


def _of_vectors(points: Tensor, share: float) -> Wander:
    """Take all pairs of some vectors; points (vectors, units)."""
    some = points[drawn(len(points), min(len(points), _VECTORS))]
    gram, (first, second) = some @ some.T, torch.triu_indices(len(some), len(some), 1)
    far = gram[first, second]
    moves = torch.zeros(len(far), 0, dtype=torch.float64)
    return Wander(gram.diagonal(), far, far, far, far, share, ends=Ends(first, second, moves))


def _of_maps(points: Tensor, share: float) -> Wander:
    """Take some pairs of images, shifted against each other; points (batch, *map, units)."""
    sizes = points.shape[1:-1]
    batch, positions = len(points), math.prod(sizes)
    pairs = max(16, min(1024, _POSITIONS // positions))
    images = drawn(batch, min(batch, pairs))
    pairs += -pairs % len(images)  # each image as often as any other
    turn, others = torch.arange(pairs), max(len(images) - 1, 1)
    ends = turn % len(images), (turn + 1 + turn % others) % len(images)
    first, second = images[ends[0]], images[ends[1]]
    none = torch.zeros(pairs, len(sizes), dtype=torch.int64)
    # In another order each time round: the same pair of images comes with other shifts.
    some = shifts(1 + drawn(max(positions - 1, 1), pairs, again=True), sizes)
    return Wander(
        same=_products(points, first, first, none),
        far=_products(points, first, second, some),
        aligned=_products(points, first, second, none),
        near=(points[first] * beside(points[first], len(sizes))).sum(-1),
        within=_products(points, first, first, some),
        share=share,
        ends=Ends(*ends, some / torch.tensor(sizes)),
    )


def shifts(places: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Turn places in a flattened map into shifts along each axis; (pairs, axes)."""
    return torch.stack(torch.unravel_index(places, sizes), dim=1)


def neighbours(axes: int) -> Sequence[tuple[int, ...]]:
    """Return the shifts to the neighbours in each direction, and to those across."""
    return [kind for kind in itertools.product((0, 1), repeat=axes) if any(kind)]


def beside(maps: Tensor, axes: int | None = None) -> Tensor:
    """Put neighbours in the place of positions, in each direction in turn.

    Args:
        maps: shape (pairs, *map, …).
        axes: of the map; by default all but the first.
    """
    kinds = neighbours(maps.dim() - 1 if axes is None else axes)
    made, turn = maps.clone(), turns(len(maps), len(kinds))
    for place, kind in enumerate(kinds):
        made[turn == place] = moved(maps[turn == place], (0, *kind))
    return made


def turns(pairs: int, kinds: int) -> Tensor:
    """Return which direction the neighbour of each pair is in: they take turns.

    Images come in turns as well, and each should meet all directions, however many images there
    are: of the number of a pair, the sum of its digits to the base of the number of kinds.
    """
    left, turn = torch.arange(pairs), torch.zeros(pairs, dtype=torch.int64)
    while kinds > 1 and bool(left.any()):
        turn, left = turn + left % kinds, left // kinds
    return turn % kinds


def moved(image: Tensor, shift: Sequence[int]) -> Tensor:
    """Put each position's neighbour in its place, (*map, …); at an edge, the one on this side."""
    for axis, step in enumerate(shift):
        size = image.shape[axis]
        if step and size > 1:
            order = [*range(1, size), size - 2]
            image = image.index_select(axis, torch.tensor(order))
    return image


def _products(points: Tensor, first: Tensor, second: Tensor, shifts: Tensor) -> Tensor:
    """Multiply images of the batch position by position; (pairs, *map)."""
    axes = tuple(range(points.dim() - 2))
    pairs = zip(first.tolist(), second.tolist(), shifts.tolist(), strict=True)
    moved = [(points[a] * points[b].roll(shift, axes)).sum(-1) for a, b, shift in pairs]
    return torch.stack(moved)


def drawn(below: int, count: int, again: bool = False) -> Tensor:
    """Draw whole numbers, the same ones every time, without repetition as long as there are.

    Args:
        below: the first that is not drawn.
        count: how many.
        again: whether to draw them anew when all have come; by default they repeat.
    """
    generator = torch.Generator().manual_seed(0)
    rounds = -(-count // below) if again else 1
    order = torch.cat([torch.randperm(below, generator=generator) for _ in range(rounds)])
    return order[torch.arange(count) % len(order)]
