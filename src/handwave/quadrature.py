"""Integrate a function against a Gaussian: panels, halved wherever that still changes something."""

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from handwave.moments import Moments

Elementwise = Callable[[Tensor], Tensor]

# A standard normal leaves [-12, 12] with probability 4e-33: enough unless the function grows as
# exp(z) does. At 52 the root of the density is 1e-294, and hardly a float64 makes up for less.
_REACHES = range(12, 53, 4)
_WIDTH = 0.5  # of a panel: kinks at multiples of 0.5, which are the common ones, cost nothing
_REST = 1e-13  # what the outermost panels may add
_NODES = 20
_MOST_PANELS = 20_000
_EXACT = 1e-6  # of the answer: what all panels may be wrong by that are too narrow to halve

# Narrower than this part of its place, a panel has few floats in it, where even a pole looks
# level; nearer to 0 than the second there are floats enough, and nothing to find.
_GRAIN, _NEAREST = 2.0**-49, 2.0**-15

# What fn does, it does in its own unit: near 0, and the nearer the finer. There z = ±2^k are the
# ends of panels as well, for however wide and far off a signal these are a speck.
_FINEST = -10
# Places a panel that are looked at beforehand, and how many of the roughest become ends.
_LOOKS, _ROUGHEST = 512, 8


def moments_behind(fn: Elementwise, signal: Moments, tolerance: float) -> Moments:
    """Compute the mean and variance of fn(z), for z Gaussian with the signal's moments.

    Args:
        fn: from float64 to float64, elementwise.
        signal: mean and variance of z.
        tolerance: relative, of what fn itself may round.

    Raises:
        ValueError: fn is infinite or NaN somewhere; or fn(z) has no second moment, or none that
            float64 can tell.
    """
    places = _places(fn, signal)
    # In standard deviations, to which z is rounded by more the farther off it is.
    blur = abs(signal.mean) / signal.std if signal.std else 0.0
    values = partial(_over_panels, fn, signal, 1)
    mean = _integral(values, places, blur, tolerance)
    # Centred, and not E[f²] − mean², which loses all digits when the mean dwarfs the spread.
    centred = partial(_over_panels, lambda z: fn(z) - mean, signal, 2)
    rounding = tolerance / 64
    var = _integral(centred, places, blur, tolerance + rounding * blur, rounding * abs(mean))
    return Moments(mean, var)


def mean_square(fn: Elementwise, tolerance: float) -> float:
    """Compute E[fn(z)²], z ~ N(0, 1); the rest is as in `moments_behind`."""
    normal = Moments(0.0, 1.0)
    squares = partial(_over_panels, fn, normal, 2)
    return _integral(squares, _places(fn, normal), 0.0, tolerance)


def on_panels(edges: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the nodes on every panel and their weights, both (panels, count).

    Args:
        edges: of the panels (panels, 2).
        count: of the nodes on one.
    """
    nodes, weights = _lobatto(count)
    half = edges.diff() / 2  # (panels, 1)
    return edges[:, :1] + half * (1 + nodes), half * weights


def halved(edges: Tensor) -> Tensor:
    """Return the halves of all panels, those of one side by side: (panels, 2) to (2·panels, 2)."""
    middle = edges.mean(dim=1)
    return torch.stack([edges[:, 0], middle, middle, edges[:, 1]], dim=1).reshape(-1, 2)


@cache
def _lobatto(count: int) -> tuple[Tensor, Tensor]:
    """Return Gauss-Lobatto nodes and weights for [-1, 1]; both of shape (count,).

    Lobatto, which has nodes at both ends: a plain Gauss rule cannot see a jump that stands
    between an end and its first node, nor can its two halves, and all three agree on an error.
    """
    legendre = np.polynomial.Legendre.basis(count - 1)
    nodes = np.concatenate([[-1.0], legendre.deriv().roots(), [1.0]])
    weights = 2 / (count * (count - 1) * legendre(nodes) ** 2)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def _at(signal: Moments, t: Tensor) -> Tensor:
    return signal.mean + signal.std * t


def _places(fn: Elementwise, signal: Moments) -> Tensor:
    """Find where fn may do something that panels of a common width miss.

    Returns:
        Places (places,) in standard units: powers of two of z, and where fn bends most.
    """
    powers = 2.0 ** torch.arange(_FINEST, 1024, dtype=torch.float64, device="cpu")
    own = (torch.cat([-powers, torch.zeros_like(powers[:1]), powers]) - signal.mean) / signal.std
    near = own[own.abs() < _REACHES[0]]
    line = _line(_REACHES[0], near)  # (panels + 1,)
    steps = torch.linspace(0, 1, _LOOKS + 1, dtype=torch.float64, device="cpu")
    t = line[:-1, None] + line.diff()[:, None] * steps  # (panels, looks + 1)
    z = _at(signal, t)
    y = _finite(fn(z), z)
    bends = y.diff(n=2).abs()  # (panels, looks - 1)
    most = bends.amax(dim=1)
    rough = (most > 16 * bends.mean(dim=1)) & (most > 1e-12 * y.abs().amax(dim=1))
    t, middles = t[rough], bends[rough].topk(_ROUGHEST, dim=1).indices + 1
    return torch.cat([near, *(t.gather(1, middles + side).flatten() for side in (-1, 0, 1))])


def _line(reach: int, places: Tensor) -> Tensor:
    """Return the ends of panels (panels + 1,): multiples of a width, and these places."""
    count = round(2 * reach / _WIDTH)
    even = torch.linspace(-reach, reach, count + 1, dtype=torch.float64, device="cpu")
    return torch.cat([even, places]).unique()


def _finite(y: Tensor, z: Tensor) -> Tensor:
    """Return y, unless some of it is not finite; say then where."""
    if not bool(y.isfinite().all()):
        where = ~y.isfinite()
        raise ValueError(
            f"the function is {float(y[where][0])} at {float(z[where][0]):.4g}; "
            "a function with a gain is finite everywhere"
        )
    return y


def _over_panels(fn: Elementwise, signal: Moments, power: int, edges: Tensor) -> Tensor:
    """Integrate fn or fn² against the Gaussian over each panel; edges (panels, 2) in std. units."""
    t, weights = on_panels(edges, _NODES)  # (panels, nodes)
    z = _at(signal, t)
    y = _finite(fn(z), z)
    # Its root, for each factor: squares and densities leave float64's range where these do not.
    root = torch.exp(-t * t / 4) / (2 * math.pi) ** 0.25
    other = y * root if power == 2 else root
    return _finite(y * root * other * weights, z).sum(dim=1)


def _covered(integrate: Elementwise, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the line into panels, so far out that what is left does not count, and integrate.

    Returns:
        The panels' edges (panels, 2) in standard units, and the integral over each (panels,).
    """
    for reach in _REACHES:
        line = _line(reach, places)
        edges = torch.stack([line[:-1], line[1:]], dim=1)
        try:
            whole = integrate(edges)
        except ValueError:
            if reach == _REACHES[0]:
                raise
            break  # it has left the range of float64 on its way up
        outermost = edges.abs().amax(dim=1) > reach - _WIDTH / 2
        if float(whole[outermost].abs().sum()) <= _REST * float(whole.abs().sum()):
            return edges, whole
    raise ValueError(
        "the function grows so fast that its second moment is infinite, or comes from where "
        "float64 ends"
    )


def _integral(
    integrate: Elementwise, places: Tensor, blur: float, tolerance: float, rounding: float = 0.0
) -> float:
    """Sum over all panels, halving them until halving changes none by more than rounding.

    Args:
        integrate: from panels' edges (panels, 2) to the integral over each.
        places: more ends of panels.
        blur: how far off z is, in standard deviations.
        tolerance: relative to the whole.
        rounding: of a function whose square is integrated, in its own unit.
    """
    edges, whole = _covered(integrate, places)
    scale, total, left = float(whole.abs().sum()), 0.0, 0.0
    while len(edges):
        halves = halved(edges)
        parts = integrate(halves)
        better = parts.reshape(-1, 2).sum(dim=1)
        scale = max(scale, float(better.abs().sum()))
        off = (better - whole).abs()
        done = off <= tolerance * scale + rounding * math.sqrt(scale)
        grain = _GRAIN * edges.abs().amax(dim=1).clamp(min=max(blur, _NEAREST))
        narrow = ~done & (edges.diff().squeeze(1) <= grain)
        left += float(off[narrow].sum())
        total += float(better[done | narrow].sum())
        kept = ~(done | narrow).repeat_interleave(2)
        edges, whole = halves[kept], parts[kept]
        if len(edges) > _MOST_PANELS:
            raise ValueError("the function is too rough to integrate: it wiggles at every scale")
    if left > _EXACT * scale:
        raise ValueError(
            "the function has a pole, or all that it does is narrower than float64 can tell: its "
            "second moment is infinite or unknown"
        )
    return total
