"""What an activation does to a signal: Gaussian in, two numbers out."""

import copy
import math

import torch
from torch import Tensor, nn

from handwave.moments import Moments
from handwave.nested import tensors
from handwave.quadrature import Elementwise, mean_square, moments_behind


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
        TypeError: fn is no function from one tensor to one of floats; signal is not Moments.
        ValueError: fn changes the shape, mixes entries, is random, or is infinite or NaN
            somewhere; or fn(z) has no second moment, or none that float64 can tell; or the
            signal's moments are not finite.

    Examples:
        >>> relu = activation_moments(torch.relu, Moments(0.0, 1.0))
        >>> print(f"{relu.mean:.4f} {relu.var:.4f} {relu.second_moment:.4f}")
        0.3989 0.3408 0.5000

    References:
        Lesson 7, "relu".
    """
    _check_signal(signal)
    evaluate, tolerance = elementwise(fn)
    return moments_behind(evaluate, signal, tolerance)


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
        TypeError: fn as in `activation_moments`; backward is neither True nor False.
        ValueError: fn as there; or fn (backward: its derivative) is zero everywhere.

    Examples:
        >>> print(f"{gain(torch.tanh):.4f} {gain(torch.tanh, backward=True):.4f}")
        1.5925 1.4674

    References:
        He et al. 2015, eq. 7-10 (ReLU). Lessons 8, "gains", and 9, "backward".
    """
    if not isinstance(backward, bool):
        raise TypeError(
            f"backward must be True or False, got {backward!r}; a gain is for z ~ N(0, 1): "
            "activation_moments takes other signals"
        )
    evaluate, tolerance = elementwise(fn, derivative=backward)
    second_moment = mean_square(evaluate, tolerance)
    if not second_moment:
        what = "has, as autograd sees it, a derivative of zero" if backward else "is zero"
        raise ValueError(f"{_name(fn)} {what} everywhere on the line: no gain makes up for that")
    return 1 / math.sqrt(second_moment)


def _check_signal(signal: Moments) -> None:
    """Refuse what no Gaussian can be drawn from."""
    if not isinstance(signal, Moments):
        raise TypeError(
            f"signal must be Moments, got {signal!r}; write Moments(mean, var), or Moments.of(x) "
            "where x is a tensor"
        )
    if not math.isfinite(signal.second_moment):
        raise ValueError(
            f"the signal must have finite moments, got mean {signal.mean} and var {signal.var}; "
            "measure shows at which layer they stop being finite"
        )


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
            try:
                slope = torch.autograd.grad(y.sum(), z)[0]
            except RuntimeError as error:
                raise ValueError(
                    f"{_name(fn)} has no slope that torch knows: {error}; a gain backward needs one"
                ) from error
            # Autograd finds a slope for log(−1) as well.
            return torch.where(y.isfinite(), slope, y.detach())

    return (slopes if derivative else values), tolerance


def unhooked(module: nn.Module) -> nn.Module:
    """Copy a module without its forward hooks: whoever watches the original stays out of it."""
    kept = [tensor for part in module.modules() for tensor in tensors(vars(part))]
    # What was computed and is kept, an attention map say, has no copy: its numbers do.
    numbers = {id(tensor): tensor.detach() for tensor in kept if not tensor.is_leaf}
    made = copy.deepcopy(module, numbers)
    for part in made.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
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
    except TypeError:  # it takes other arguments, and says so
        raise
    except Exception as error:  # whatever a function that is not elementwise may ask of its input
        raise ValueError(
            f"{name} fails on a float64 tensor of shape {shape}, which an elementwise function "
            f"takes: {error}"
        ) from error
    if not isinstance(y, Tensor):
        raise TypeError(
            f"{name} must return a tensor, got {type(y).__name__}; "
            "wrap it in a function that returns one"
        )
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
