"""Sum up a tensor nearly as fast as it can be read."""

import math
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor

from handwave.moments import Moments

# So many entries are summed in the tensor's own precision, the sums of these in float64: the
# rounding of 1,024 terms is near the last digit, and averages out over the blocks.
_BLOCK = 1 << 10

# Longer rows are fewer to add up, and their squares err by four times as much: good enough where
# a variance may err by this.
_LONG, _ROUGH = 1 << 12, 1e-4

# Entries that are worked on at a time: 2 MiB in float32, which two cores hold in their caches;
# with smaller pieces the threads wait for each other more than they work.
_PIECE = 1 << 19

# A variance beside mean² = this · precision · var is as precise as asked: the squares of one block
# of draws err by some 4e-7 at worst, those of many by less, as far as their roundings differ.
_ONE_BLOCK, _MANY_BLOCKS = 1e6, 1e7

# Half precision has few numbers between mean − std and mean + std: many entries are equal, and so
# are their roundings. So much less may cancel.
_ROUNDED_ALIKE = 0.01

# Squares below this begin to lose digits in float32, whose range ends at 1e-38.
_SMALL = 1e-28

_FAST = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def quick_moments(tensor: Tensor, precision: float) -> Moments:
    """Compute moments from sums and sums of squares, anew where too many digits cancel.

    Args:
        tensor: any floating tensor with entries.
        precision: relative error of the variance that is good enough, 1e-4 or 1e-6.

    Returns:
        The moments; those of `Moments.of` where an entry is not finite, squares leave the range
        of float32, or mean² is over precision * 1e6 times the variance, 1e7 in large tensors.

    Averaged over: every entry of the tensor.

    Assumes: entries that differ, whose roundings average out: where most of them are equal, the
        variance is off by up to 3e-6 of the second moment, with the coarser precision by 1e-5.
    """
    if _is_fast(tensor):
        total, squares = _sums(tensor, _LONG if precision >= _ROUGH else _BLOCK)
        mean, second_moment = total / tensor.numel(), squares / tensor.numel()
        var = second_moment - mean * mean
        limit = min(_ONE_BLOCK * max(tensor.numel() / _BLOCK, 1) ** 0.5, _MANY_BLOCKS)
        limit *= 1.0 if tensor.element_size() >= 4 else _ROUNDED_ALIKE
        if _SMALL < second_moment < math.inf and mean * mean <= limit * precision * var:
            return Moments(mean, var, tensor.numel())
    return Moments.of(tensor)


def quick_second_moment(tensor: Tensor) -> float:
    """Compute the mean of squares in a single pass where float32 holds them.

    To 1e-6 where the entries differ; to 3e-6 where they are equal, and so are their roundings.

    Args:
        tensor: any floating tensor with entries.

    Averaged over: every entry of the tensor.
    """
    if _is_fast(tensor):
        found = sum(map(_squares, _blocks(tensor))) / tensor.numel()
        if _SMALL < found < math.inf:
            return found
    return Moments.of(tensor).second_moment


def spread(output: Tensor, axis: int, signal: Moments) -> float | None:
    """Return the variance along the axis of inputs, averaged over everything else.

    Args:
        output: any floating tensor with entries.
        axis: along which one input follows another.
        signal: the moments of the output, which tell how many digits cancel.

    Returns:
        Population variance, None for a single input; relative error below 1e-6.
    """
    if output.dim() < 2 or output.shape[axis] < 2:
        return None
    if _is_fast(output) and _SMALL < signal.second_moment < math.inf:
        found = _quick_spread(output, axis)
        if 1e-6 * signal.second_moment < found < math.inf:
            return found
    return _exact_spread(output, axis)


def zeros(output: Tensor) -> float:
    """Return the share of entries that are exactly zero."""
    flat = _flat(output)
    # Comparing into floats and adding these up is many times as fast as counting booleans; a
    # piece has fewer entries than the 2**24 up to which float32 counts exactly.
    ones = torch.empty(min(_PIECE, flat.numel()), dtype=torch.float32, device=flat.device)
    parts = flat.split(_PIECE)
    found = sum(float(torch.eq(part, 0, out=ones[: part.numel()]).sum()) for part in parts)
    return found / flat.numel()


def _is_fast(tensor: Tensor) -> bool:
    """Tell what can be summed up here; Apple's GPU has no float64."""
    return tensor.dtype in _FAST and not tensor.is_mps


def _wide(tensor: Tensor) -> torch.dtype:
    """Choose what to add up in: half precision has too few digits and too short a range."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _flat(tensor: Tensor) -> Tensor:
    """Make a tensor a vector, in the order in which it lies in memory."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    # With steps in between, torch would add up in one lane, which loses more digits.
    return tensor.permute(_order(tensor)).reshape(-1).contiguous()


def _blocks(tensor: Tensor, size: int = _BLOCK) -> Iterable[Tensor]:
    """Yield the entries as rows of a size, and what is left as one row, with digits enough."""
    if tensor.element_size() >= 4:
        return _cut(tensor if tensor.is_contiguous() else _flat(tensor), size)
    wide = _wide(tensor)
    return chain.from_iterable(_cut(part.to(wide), size) for part in _flat(tensor).split(_PIECE))


def _cut(entries: Tensor, size: int = _BLOCK) -> list[Tensor]:
    """Cut what lies in one piece into rows (rows, size) and what is left (1, left)."""
    left = entries.numel() % size
    if not left:
        return [entries.view(-1, size)]
    flat = entries.view(-1)
    whole = [flat[:-left].view(-1, size)] if flat.numel() > left else []
    return [*whole, flat[-left:].view(1, -1)]


def _order(tensor: Tensor) -> list[int]:
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _sums(tensor: Tensor, size: int) -> tuple[float, float]:
    """Return the sum of the entries and the sum of their squares, added up in float64."""
    total = squares = 0.0
    for block in _blocks(tensor, size):
        total += sum(block.sum(dim=1).tolist())
        squares += _squares(block)
    return total, squares


def _squares(block: Tensor) -> float:
    """Add up the squares of rows; a product, since ** raises where the square is inf."""
    norm = math.hypot(*torch.linalg.vector_norm(block, dim=1).tolist())
    return norm * norm


def _quick_spread(output: Tensor, axis: int) -> float:
    """Sum the squares around each unit's mean over the inputs, piece by piece."""
    wide = _wide(output)
    center = output.mean(axis, keepdim=True, dtype=wide)
    order = _order(output)
    around, output = center.permute(order), output.permute(order)
    rows = max(1, _PIECE * len(output) // output.numel())
    room = torch.empty(
        (min(rows, len(output)), *output.shape[1:]), dtype=wide, device=output.device
    )
    parts = output.split(rows)
    centers = around.split(rows) if len(around) > 1 else [around] * len(parts)
    total = 0.0
    for part, middle in zip(parts, centers, strict=True):
        rest = torch.sub(part, middle, out=room[: len(part)])
        total += sum(map(_squares, _cut(rest.view(-1))))
    return total / output.numel()


def _exact_spread(output: Tensor, axis: int) -> float:
    """Sum the same in float64, some units at a time."""
    units = output.movedim(axis, 0).flatten(1)  # (inputs, units)
    total = 0.0
    for part in units.split(max(1, _PIECE // 4 // units.shape[0]), dim=1):
        wide = part.to(torch.float64)
        total += float((wide - wide.mean(dim=0)).square_().sum())
    return total / units.numel()
