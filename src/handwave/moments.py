"""What a signal is, to a bad mathematician: its mean and its variance."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Entries held in float64 at a time: half a MiB, which stays in a core's own cache.
_CHUNK = 1 << 16

# Beyond these a float64 square leaves the range in which it keeps all its digits.
_LARGE, _SMALL = 2.0**500, 2.0**-450


@dataclass(frozen=True)
class Moments:
    """Hold the mean and the variance of a sample (count > 0) or of a law (count 0).

    Args:
        mean: average of the entries.
        var: population variance, E[(x - mean)^2]: divided by n, not by n - 1.
        count: entries it was computed from, non-finite ones included; 0 for a law.
        nonfinite: how many of the entries were inf or NaN.

    Averaged over: whatever went in. `Moments.of` pools every entry of a tensor.

    Examples:
        >>> Moments(mean=3.0, var=16.0).second_moment
        25.0
        >>> Moments(mean=3.0, var=16.0).rms
        5.0

    References:
        Lesson 4, "variance".
    """

    mean: float
    var: float
    count: int = 0
    nonfinite: int = 0

    def __post_init__(self) -> None:
        if self.var < 0:
            raise ValueError(f"var is a mean of squares and cannot be negative, got {self.var}")
        if not 0 <= self.nonfinite <= self.count:
            raise ValueError(
                "count and nonfinite must satisfy 0 <= nonfinite <= count, "
                f"got count={self.count}, nonfinite={self.nonfinite}"
            )

    @property
    def second_moment(self) -> float:
        """Return the mean of squares, E[x^2] = var + mean^2: what the next layer sees."""
        # A product, since Python's ** raises OverflowError where a product gives inf.
        return self.var + self.mean * self.mean

    @property
    def rms(self) -> float:
        """Return the root of the second moment, in the unit of the entries."""
        return math.hypot(self.std, self.mean)

    @property
    def std(self) -> float:
        """Return the root of the variance, in the unit of the entries."""
        return math.sqrt(self.var)

    @classmethod
    def of(cls, tensor: Tensor) -> "Moments":
        """Compute the moments of a tensor, in float64 whatever its dtype.

        Two passes: first m = mean(x), then mean((x - m)^2), so that a mean that dwarfs the
        spread costs no digits. Streamed: no float64 copy of the tensor is ever held.

        Args:
            tensor: any shape, any floating dtype, any device.

        Returns:
            Moments exact to 1e-9 relative (the mean: relative to the rms), up to float64's own
            range; beyond it var is inf, and below it (a spread under about 1e-160) 0. With a NaN
            inside var is NaN; with an infinity inside and no NaN var is inf; `nonfinite` counts
            both.

        Averaged over: every entry of the tensor, whatever its axes mean.

        Raises:
            TypeError: not a tensor, or a tensor of integers or complex numbers.
            ValueError: no entries.

        Examples:
            >>> Moments.of(torch.tensor([1.0, 2.0, 3.0, 4.0]))
            Moments(mean=2.5, var=1.25, count=4, nonfinite=0)
            >>> Moments.of(torch.tensor([60000.0, -60000.0], dtype=torch.float16)).var
            3600000000.0
        """
        _check(tensor)
        tensor = tensor.detach()
        nonfinite, largest = _scan(tensor)
        if nonfinite:
            total = sum(float(chunk.sum()) for chunk in _chunks(tensor))
            mean = total / tensor.numel()
            has_nan = any(bool(chunk.isnan().any()) for chunk in _chunks(tensor))
            return cls(mean, math.nan if has_nan else math.inf, tensor.numel(), nonfinite)
        # A power of two, so that scaling loses no digit; 2.0**1000 is still a float.
        exponent = 0
        if largest and not _SMALL < largest < _LARGE:
            exponent = max(-1000, min(1000, math.frexp(largest)[1]))
        mean, var = _two_pass(tensor, math.ldexp(1.0, -exponent))
        return cls(_ldexp(mean, exponent), _ldexp(var, 2 * exponent), tensor.numel())

    def __add__(self, other: "Moments") -> "Moments":
        """Pool two samples as if their entries stood in one tensor.

        var = p·var_a + q·var_b + p·q·(mean_a − mean_b)², with p and q the shares of a and b.

        Assumes: no entry stands in both samples.

        Raises:
            ValueError: one of the two is a law (count 0), which has no share.

        Examples:
            >>> Moments.of(torch.tensor([1.0, 2.0])) + Moments.of(torch.tensor([3.0, 4.0]))
            Moments(mean=2.5, var=1.25, count=4, nonfinite=0)

        References:
            Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
        """
        if not isinstance(other, Moments):
            return NotImplemented
        if not self.count or not other.count:
            raise ValueError(
                "only samples can be pooled, and a law (count 0) has no number of entries: "
                f"got counts {self.count} and {other.count}; give each a count, "
                "or take Moments.of a tensor"
            )
        count, nonfinite = self.count + other.count, self.nonfinite + other.nonfinite
        p, q = self.count / count, other.count / count
        mean = p * self.mean + q * other.mean
        if nonfinite:  # inf − inf between two means would turn an honest inf into NaN
            return Moments(mean, self.var + other.var, count, nonfinite)
        gap = abs(self.mean - other.mean) * math.sqrt(p * q)
        # A product, since ** raises where the square leaves float64's range.
        return Moments(mean, p * self.var + q * other.var + gap * gap, count)


def _check(tensor: Tensor) -> None:
    """Refuse what has no mean and variance, naming what came."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"expected a tensor, got {type(tensor).__name__}; write torch.tensor(...) around it"
        )
    if not tensor.is_floating_point():
        raise TypeError(
            f"expected a floating dtype, got {tensor.dtype}; "
            + ("take .real, .imag or .abs()" if tensor.is_complex() else "call .float() first")
        )
    if not tensor.numel():
        raise ValueError(f"an empty tensor has no moments, got shape {tuple(tensor.shape)}")


def _views(tensor: Tensor) -> Iterator[Tensor]:
    """Cut any tensor into flat pieces; a view is never copied as a whole."""
    if tensor.is_contiguous():
        yield from tensor.view(-1).split(_CHUNK)
    elif tensor.numel() <= _CHUNK:
        yield tensor.reshape(-1)
    else:
        longest = max(range(tensor.dim()), key=tensor.size)
        for half in tensor.chunk(2, dim=longest):
            yield from _views(half)


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the entries in float64, piece by piece in one buffer, free to be written in."""
    device = "cpu" if tensor.device.type == "mps" else tensor.device  # Apple's GPU has no float64
    size = min(_CHUNK, tensor.numel())
    buffer = torch.empty(size, dtype=torch.float64, device=device)
    for view in _views(tensor):
        yield buffer[: view.numel()].copy_(view)


def _scan(tensor: Tensor) -> tuple[int, float]:
    """Count the non-finite entries, and find the largest absolute value."""
    nonfinite, largest = 0, 0.0
    for chunk in _chunks(tensor):
        low, high = (float(end) for end in chunk.aminmax())  # NaN if one entry is
        top = max(-low, high)
        if not math.isfinite(top):
            nonfinite += int((~chunk.isfinite()).sum())
        largest = max(largest, top)
    return nonfinite, largest


def _two_pass(tensor: Tensor, factor: float) -> tuple[float, float]:
    """Compute mean and variance of tensor * factor, with the second pass correcting the first."""
    count = tensor.numel()
    guess = math.fsum(float(chunk.mul_(factor).sum()) for chunk in _chunks(tensor)) / count
    sums, squares = [], []
    for chunk in _chunks(tensor):
        rest = chunk.mul_(factor).sub_(guess)
        sums.append(float(rest.sum()))
        squares.append(float(rest.dot(rest)))
    slip = math.fsum(sums) / count  # what rounding left between the guess and the mean
    return guess + slip, max(0.0, math.fsum(squares) / count - slip * slip)


def _ldexp(value: float, exponent: int) -> float:
    """Return value * 2**exponent, inf where math.ldexp would raise."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)
