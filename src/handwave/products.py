"""One output of a layer: a sum of products."""

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from handwave.moments import Moments

# Fixed, so that the answer depends on the seed alone and never on the number of threads.
_STREAMS = 16
_PAIRS = 1 << 16  # of weights held by one thread at a time: they fit a core's own cache


def dot_product(x: Moments, w: Moments, fan_in: float) -> Moments:
    """Compute the mean and variance of y = Σ w_i·x_i, a sum of fan_in products.

    E[y] = fan_in·E[w]·E[x], Var(y) = fan_in·(E[w²]·E[x²] − E[w]²·E[x]²).

    Args:
        x: moments of one input.
        w: moments of one weight.
        fan_in: how many products are added; need not be whole, as an average never is.

    Returns:
        The moments of one output, a law: count 0.

    Averaged over: draws of the weights and of the inputs.

    Assumes: the weights are independent of one another and of the inputs; where their mean is
    not zero, the inputs are independent of one another too.

    Raises:
        TypeError: x or w is not `Moments`.
        ValueError: fan_in is not positive and finite.

    Examples:
        >>> dot_product(Moments(0.0, 1.0), Moments(0.0, 1.0), fan_in=784)
        Moments(mean=0.0, var=784.0, count=0, nonfinite=0)

    References:
        Lesson 2, "dot-product".
    """
    for name, given in (("x", x), ("w", w)):
        if not isinstance(given, Moments):
            raise TypeError(
                f"{name} must be Moments, got {type(given).__name__}; pass Moments(mean, var), or "
                "Moments.of(tensor)"
            )
    if not (fan_in > 0 and math.isfinite(fan_in)):
        raise ValueError(f"fan_in must be a positive number, got {fan_in}")
    # E[w²]E[x²] − E[w]²E[x]², multiplied out: no difference of large numbers remains.
    var = w.var * x.var + w.var * x.mean * x.mean + x.var * w.mean * w.mean
    return Moments(fan_in * w.mean * x.mean, fan_in * var)


def sample_dot_products(
    x: Tensor, samples: int, scale: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draw x @ w for many fresh columns w of Gaussian weights, w ~ N(0, scale²).

    Every column is drawn, used once and forgotten: memory stays at the size of the answer,
    where `x @ torch.randn(len(x), samples)` holds all the columns.

    Args:
        x: one input, (fan_in,); float64 is computed in float64, any other dtype in float32.
        samples: how many columns to draw.
        scale: standard deviation of the weights.
        generator: a CPU generator, from which seeds are drawn; by default torch's own, so
            that `torch.manual_seed` decides.

    Returns:
        The dot products, (samples,), on x's device; independent draws from N(0, scale²·x·x).
        For one seed the same whatever the number of threads and whatever the device.

    Raises:
        TypeError: x is not a tensor of real floating numbers; samples is no whole number.
        ValueError: x is not one-dimensional, is empty or not finite; samples is below 1;
            scale is negative or not finite.

    Examples:
        >>> x = torch.ones(512)
        >>> y = sample_dot_products(x, 20_000, generator=torch.Generator().manual_seed(0))
        >>> print(y.shape, f"{Moments.of(y).var:.1f}")
        torch.Size([20000]) 504.2

    References:
        Lesson 5, "square-root".
    """
    row = _checked_row(x, samples, scale)
    seeds = torch.randint(0, 2**63 - 1, (_STREAMS,), generator=generator, device="cpu").tolist()
    out = np.empty(samples, dtype=row.dtype)
    bounds = [samples * k // _STREAMS for k in range(_STREAMS + 1)]
    pieces = [out[a:b] for a, b in itertools.pairwise(bounds)]
    # Threads of our own: torch draws on one core whatever its thread count.
    with ThreadPoolExecutor(min(_STREAMS, _cores())) as pool:
        for _ in pool.map(lambda piece, seed: _fill(piece, row, scale, seed), pieces, seeds):
            pass
    return torch.from_numpy(out).to(x.device)


def _checked_row(x: Tensor, samples: int, scale: float) -> np.ndarray:
    """Return x as float32 or float64 numbers, or say what is wrong with the call."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must have a floating dtype, got {x.dtype}; call .float() first")
    if x.dim() != 1 or not x.numel():
        raise ValueError(
            f"x must be one input of shape (fan_in,), got shape {tuple(x.shape)}; "
            "take one row of a batch: x[0]"
        )
    if not isinstance(samples, SupportsIndex):
        message = f"samples must be a whole number, got {samples!r}; pass an int, such as 1_000"
        raise TypeError(message)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if not (scale >= 0 and math.isfinite(scale)):
        raise ValueError(f"scale is a standard deviation, at least 0, got {scale}")
    row = x.detach().to("cpu", torch.float64 if x.dtype == torch.float64 else torch.float32)
    if not bool(row.isfinite().all()):
        raise ValueError("x holds inf or NaN: its dot products would be nothing but NaN")
    return row.contiguous().numpy()


def _cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fill(out: np.ndarray, row: np.ndarray, scale: float, seed: int) -> None:
    """Fill one stream's share of the answer, block by block, from its own generator."""
    bits = np.random.Generator(np.random.SFC64(seed))
    pairs = (len(row) + 1) // 2
    x = np.zeros((2, pairs), dtype=row.dtype)  # two inputs to a pair of weights
    x.flat[: len(row)] = row
    length, turn = np.hypot(x[0], x[1]), np.arctan2(x[1], x[0])
    out[:] = 0
    depth = min(pairs, _PAIRS)
    width = _PAIRS // depth
    for column in range(0, len(out), width):
        part = out[column : column + width]
        for first in range(0, pairs, depth):
            rows = slice(first, first + depth)
            part += _products(bits, length[rows], turn[rows], len(part))
    out *= scale


def _products(
    # Quoted: numpy imports its generators, with all they need, at the first look at them.
    bits: "np.random.Generator",
    length: np.ndarray,
    turn: np.ndarray,
    columns: int,
) -> np.ndarray:
    """Draw pairs of standard normals, and return their products with pairs of inputs, added.

    A pair is drawn in polar form, w = (r·cos θ, r·sin θ) with r = √(−2 ln u), for u uniform in
    (0, 1] and θ in [−π, π]. With x = (ℓ·cos φ, ℓ·sin φ) its product x·w is ℓ·r·cos(θ − φ): one
    cosine for two weights.

    References:
        Box & Muller 1958, "A note on the generation of random normal deviates".
    """
    dtype = length.dtype
    shape, half_range = (2, len(length), columns), 2.0 ** (8 * dtype.itemsize - 1)
    # Generator.integers lets go of the interpreter's lock, and random_raw does not.
    words = bits.integers(0, 2**64, math.prod(shape) * dtype.itemsize // 8, dtype=np.uint64)
    radius, angle = words.view(f"i{dtype.itemsize}").astype(dtype).reshape(shape)
    # The absolute value of an integer keeps its digits near 0, where the logarithm needs them.
    np.abs(radius, out=radius)
    radius += 0.5
    radius /= half_range
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle *= math.pi / half_range
    angle -= turn[:, None]
    np.cos(angle, out=angle)
    radius *= angle
    # Adds in one fixed order; a BLAS may choose another when it has more threads.
    return np.einsum("i,ij->j", length, radius)
