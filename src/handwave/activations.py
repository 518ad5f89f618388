"""What an activation does to a signal: Gaussian in, two numbers out."""

import copy
import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn

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


def activation_moments(fn: Elementwise, signal: Moments) -> Moments:
    """Compute the mean and variance of fn(z), for z Gaussian with the signal's moments.

    By Gauss-Lobatto quadrature in float64, on panels that are halved wherever halving still
    changes the answer: a kink or a jump may stand anywhere, also where it is a speck to z.

    Args:
        fn: an elementwise function or module. It is called on float64 tensors of its own; a
            module is copied first, so the caller's stays as it was.
        signal: mean and variance of z. Only these two are used.

    Returns:
        The moments of fn(z), a law: count 0.

    Averaged over: z.

    Assumes: z is Gaussian. A sum of many independent products nearly is. And fn has no bump
    narrower than 1/500 of its distance from 0, or of a standard deviation if that is less:
    nobody sees what stands between all places that were looked at.

    Raises:
        TypeError: fn is no function from one tensor to one of floats.
        ValueError: fn changes the shape, mixes entries, is random, or is infinite or NaN
            somewhere; or fn(z) has no second moment, or none that float64 can tell.

    Examples:
        >>> relu = activation_moments(torch.relu, Moments(0.0, 1.0))
        >>> print(f"{relu.mean:.4f} {relu.var:.4f} {relu.second_moment:.4f}")
        0.3989 0.3408 0.5000

    References:
        Lesson 7, "relu".
    """
    if not math.isfinite(signal.second_moment):
        raise ValueError(
            f"the signal must have finite moments, got mean {signal.mean} and var {signal.var}"
        )
    evaluate, tolerance = elementwise(fn)
    places = _places(evaluate, signal)
    # In standard deviations, to which z is rounded by more the farther off it is.
    blur = abs(signal.mean) / signal.std if signal.std else 0.0
    values = partial(_over_panels, evaluate, signal, 1)
    mean = _integral(values, places, blur, tolerance)
    # Centred, and not E[f²] − mean², which loses all digits when the mean dwarfs the spread.
    centred = partial(_over_panels, lambda z: evaluate(z) - mean, signal, 2)
    rounding = tolerance / 64
    var = _integral(centred, places, blur, tolerance + rounding * blur, rounding * abs(mean))
    return Moments(mean, var)


def gain(fn: Elementwise, backward: bool = False) -> float:
    """Return the factor on the weights' standard deviation that makes up for an activation.

    gain = 1/√E[fn(z)²] keeps the forward signal, 1/√E[fn′(z)²] the gradient, z ~ N(0, 1).

    Args:
        fn: an elementwise function or module, in-place ones too; see `activation_moments`.
        backward: use the derivative, which autograd takes.

    Returns:
        The gain; 1.4142 for ReLU, either way.

    Averaged over: z, a standard normal.

    Assumes: what enters fn is Gaussian with mean 0 and variance 1. With the gain it is so again
    at the next layer, on average; whether a small error grows from there is another question.

    Raises:
        TypeError: as `activation_moments`.
        ValueError: as `activation_moments`; or fn (backward: its derivative) is zero everywhere.

    Examples:
        >>> print(f"{gain(torch.tanh):.4f} {gain(torch.tanh, backward=True):.4f}")
        1.5925 1.4674

    References:
        He et al. 2015, eq. 7-10 (ReLU). Lessons 8, "gains", and 9, "backward".
    """
    evaluate, tolerance = elementwise(fn, derivative=backward)
    normal = Moments(0.0, 1.0)
    squares = partial(_over_panels, evaluate, normal, 2)
    second_moment = _integral(squares, _places(evaluate, normal), 0.0, tolerance)
    if not second_moment:
        what = "has, as autograd sees it, a derivative of zero" if backward else "is zero"
        raise ValueError(f"{_name(fn)} {what} everywhere on the line: no gain makes up for that")
    return 1 / math.sqrt(second_moment)


def elementwise(fn: Elementwise, derivative: bool = False) -> tuple[Elementwise, float]:
    """Wrap a checked fn as a function from float64 to float64; say how smooth its values are."""
    if isinstance(fn, type):
        raise TypeError(
            f"expected a function or a module, got the class {fn.__name__}; write {fn.__name__}()"
        )
    if not callable(fn):
        raise TypeError(f"expected a function or a module, got {fn!r}; try torch.tanh, nn.GELU()")
    # A copy: float64 weights (PReLU) for float64 nodes, and no state of the caller's changes.
    # Not in the caller's inference mode, of whose tensors autograd takes no derivative.
    with torch.inference_mode(False):
        call = unhooked(fn).to("cpu", torch.float64) if isinstance(fn, nn.Module) else fn
    dtype = _check_elementwise(call, _name(fn))
    # An fn that computes in float32 inside has that rounding in its values: look no closer.
    tolerance = 1e-13 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps

    def values(z: Tensor) -> Tensor:
        with torch.no_grad():
            return call(z.clone()).to(torch.float64)  # a clone, for in-place activations

    def slopes(z: Tensor) -> Tensor:
        # The caller may be in no_grad or inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            z = z.clone().requires_grad_()
            y = call(z.clone())
            if not y.requires_grad:  # made of comparisons: flat wherever it has a slope
                return torch.zeros_like(z)
            slope = torch.autograd.grad(y.sum(), z)[0]
            # Autograd finds a slope for log(−1) as well.
            return torch.where(y.isfinite(), slope, y.detach())

    return (slopes if derivative else values), tolerance


def unhooked(module: nn.Module) -> nn.Module:
    """Copy a module without its forward hooks: whoever watches the original stays out of it."""
    made = copy.deepcopy(module)
    for part in made.modules():
        part._forward_hooks.clear()
    return made


def _name(fn: Elementwise) -> str:
    """Name a callable as its owner would."""
    return getattr(fn, "__name__", None) or type(fn).__name__


def _check_elementwise(call: Elementwise, name: str) -> torch.dtype:
    """Refuse what is not a function of one number, saying which way; return its dtype."""
    line = torch.linspace(-2.9, 3.1, 48, dtype=torch.float64, device="cpu")
    place = torch.arange(48, device="cpu")
    # In no order, which a sort or a running maximum would keep.
    probe = line[29 * place % 48].reshape(6, 8)
    moves = (5 * place + 7) % 48
    state = torch.random.get_rng_state()
    try:
        with torch.no_grad():
            first = _tried(call, probe, name)
            # Dropout that seldom drops gives the same twice, but it draws.
            drawn = not torch.equal(torch.random.get_rng_state(), state)
            again = _tried(call, probe, name)
            # Each number among others, in another place, and some go missing: softmax, norms,
            # sums along an axis, and what takes the first for its measure all notice.
            moved = _tried(call, probe.flatten()[moves].reshape(6, 8), name)
            part = _tried(call, probe.flatten()[moves[:15]].reshape(3, 5), name)
    finally:
        torch.random.set_rng_state(state)
    if drawn or not torch.equal(first.nan_to_num(), again.nan_to_num()):
        raise ValueError(f"{name} is random: it gives another answer each time; call .eval() first")
    expected = first.flatten()[moves]
    if not all(
        torch.allclose(found.flatten(), expected[: found.numel()], 1e-5, 1e-7, equal_nan=True)
        for found in (moved, part)
    ):
        raise ValueError(
            f"{name} mixes entries: what it makes of one number depends on the others; "
            "only an elementwise function has a gain"
        )
    return first.dtype


def _tried(call: Elementwise, z: Tensor, name: str) -> Tensor:
    """Call on a clone, and hold type and shape of the answer to those of an elementwise fn."""
    shape = tuple(z.shape)
    try:
        y = call(z.clone())
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name} fails on a float64 tensor of shape {shape}, which an elementwise function "
            f"takes: {error}"
        ) from error
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must return a tensor, got {type(y).__name__}")
    if not y.is_floating_point():
        raise TypeError(
            f"{name} must return floating numbers, got {y.dtype}; "
            + ("take .real, .imag or .abs()" if y.is_complex() else "end it in .to(z.dtype)")
        )
    if y.shape != z.shape:
        raise ValueError(
            f"{name} changes the shape, {shape} to {tuple(y.shape)}; "
            "only an elementwise function has a gain"
        )
    return y


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Return Gauss-Lobatto nodes and weights for [-1, 1]; both of shape (nodes,).

    Lobatto, which has nodes at both ends: a plain Gauss rule cannot see a jump that stands
    between an end and its first node, nor can its two halves, and all three agree on an error.
    """
    legendre = np.polynomial.Legendre.basis(_NODES - 1)
    nodes = np.concatenate([[-1.0], legendre.deriv().roots(), [1.0]])
    weights = 2 / (_NODES * (_NODES - 1) * legendre(nodes) ** 2)
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
    nodes, weights = _rule()
    half = (edges[:, 1:] - edges[:, :1]) / 2  # (panels, 1)
    t = edges[:, :1] + half * (1 + nodes)  # (panels, nodes)
    z = _at(signal, t)
    y = _finite(fn(z), z)
    # Its root, for each factor: squares and densities leave float64's range where these do not.
    root = torch.exp(-t * t / 4) / (2 * math.pi) ** 0.25
    other = y * root if power == 2 else root
    return _finite(y * root * other * half, z) @ weights


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
        middle = edges.mean(dim=1)
        halves = torch.stack([edges[:, 0], middle, middle, edges[:, 1]], dim=1).reshape(-1, 2)
        parts = integrate(halves)
        better = parts.reshape(-1, 2).sum(dim=1)
        scale = max(scale, float(better.abs().sum()))
        off = (better - whole).abs()
        done = off <= tolerance * scale + rounding * math.sqrt(scale)
        grain = _GRAIN * edges.abs().amax(dim=1).clamp(min=max(blur, _NEAREST))
        narrow = ~done & (edges.diff().squeeze(1) <= grain)
        left += float(off[narrow].sum())
        total += float(better[done | narrow].sum())
        halved = ~(done | narrow).repeat_interleave(2)
        edges, whole = halves[halved], parts[halved]
        if len(edges) > _MOST_PANELS:
            raise ValueError("the function is too rough to integrate: it wiggles at every scale")
    if left > _EXACT * scale:
        raise ValueError(
            "the function has a pole, or all that it does is narrower than float64 can tell: its "
            "second moment is infinite or unknown"
        )
    return total
