"""What one layer should make of the very input that it received."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from handwave.activations import unhooked
from handwave.filters import own_variance
from handwave.laws import apply_law
from handwave.moments import Moments
from handwave.norms import NORMS, affine
from handwave.running import copied, first_floating, of_a_library
from handwave.signals import NoTheoryError, of_input
from handwave.sums import bias_moments, expected_square, is_sum
from handwave.traces import COVERAGE
from handwave.twins import twin
from handwave.wandering import one_input
from handwave.weights import is_conv1d

Band = tuple[float, float]

# What computing in another order leaves of a mean of squares, in float32 and in half precision.
_ROUNDING, _HALF_ROUNDING = 1e-6, 2e-3

# Fresh draws of a layer without a formula, and Student's t for 99 % with one degree less.
_DRAWS, _STUDENT = 16, 2.947


@dataclass(frozen=True)
class Expected:
    """Hold what a layer's output should be over draws of its weights.

    Args:
        signal: expected mean and second moment, a law.
        band: holds the second moment of one draw with probability 0.99.
        products: average number of inputs behind an entry of the output, edges counted.
        common: share of the second moment that the mean of the weights makes; where the bias takes
            from that, share of what there is without the bias.
    """

    signal: Moments
    band: Band
    products: float | None = None
    common: float = 0.0


def expect(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Expected | None:
    """Say what a layer should make of what it received; None without theory.

    A layer with one weight: by its law, and by the sums of squares of its own input. Attention
    and other layers with weights: by fresh draws with the moments of each weight.
    """
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    # Without gradients from the first look on: a checkpoint counts what is saved for them.
    with torch.no_grad():
        if not given or any(not p.isfinite().all() for p in module.parameters()):
            return None
        if not all(tensor.numel() for tensor in (*given, *module.parameters())):
            return None
        try:
            return _by_law(module, given[0]) if len(given) == 1 else _by_draws(module, args, kwargs)
        except NoTheoryError:
            return _by_draws(module, args, kwargs)


def _by_law(module: nn.Module, x: Tensor) -> Expected | None:
    if not bool(x.isfinite().all()) or not any(True for _ in module.parameters()):
        return None
    if isinstance(module, NORMS):
        return _of_norm(module, x)
    if isinstance(module, _ConvNd):
        if not of_a_library(module):
            raise NoTheoryError("no theory: its forward is its owner's")
        return _of_convolution(module, x)
    signal = apply_law(module, of_input(x))[0]
    known = _from_squares(module, x)[0] if is_sum(module) else Expected(signal.moments, (0.0, 0.0))
    if not known.signal.second_moment > 0:
        return known
    return replace(known, band=signal.wander.band(known.signal.second_moment, COVERAGE))


def _of_norm(module: Any, x: Tensor) -> Expected:
    """Normalize the input, and put the moments of weight and bias behind: nothing is left open."""
    bare: Any = twin(module, None)
    bare.__dict__["_buffers"] = copy.deepcopy(module._buffers)
    done = Moments.of(bare.forward(x.double() if x.dtype == torch.float64 else x.float()))
    weight, bias = affine(module)
    mean = weight.mean * done.mean + bias.mean
    second = weight.second_moment * done.second_moment + bias.second_moment
    second += 2 * weight.mean * bias.mean * done.mean
    # Which channel has which weight is open; otherwise only rounding is.
    loose = 4 * weight.var / (weight.second_moment or 1.0) / max(weight.count, 1)
    wander = one_input().plus((_ROUNDING if x.dtype.itemsize > 2 else _HALF_ROUNDING) ** 2 + loose)
    law = Moments(mean, max(second - mean * mean, 0.0))
    return Expected(law, wander.band(second, COVERAGE))


def _of_convolution(module: _ConvNd, x: Tensor) -> Expected:
    known, x, squares = _from_squares(module, x)
    if not known.signal.second_moment > 0:
        return known
    return replace(known, band=_own_band(module, x, squares, known.signal))


def _from_squares(module: Any, x: Tensor) -> tuple[Expected, Tensor, Tensor]:
    """Sum the squares of the inputs behind each output, and the inputs, as the layer would.

    Returns:
        What that lets expect, without a band; the input scaled into range, and its sums of squares.
    """
    weight, bias = Moments.of(module.weight), bias_moments(module)
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    # A power of two, which costs no digit: squares then stay in range.
    unit = 2.0 ** math.frexp(float(x.abs().max()) or 1.0)[1]
    x = x / unit
    add = _adder(module, x)
    squares, total = add(x.square()).double(), add(x).double()
    own = float(expected_square(weight, squares, total.square()).mean()) * unit * unit
    mean = float(total.mean()) * unit * weight.mean
    second = own + 2 * bias.mean * mean + bias.second_moment
    count = float(add(torch.ones_like(x)).mean())
    mean += bias.mean
    law = Moments(mean, max(second - mean * mean, 0.0))
    if not second > 0:
        return Expected(law, (0.0, 0.0), count), x, squares
    shared = float(total.square().mean()) * unit * unit * weight.mean**2
    return Expected(law, (0.0, 0.0), count, shared / max(second, own)), x, squares


def _own_band(module: _ConvNd, x: Tensor, squares: Tensor, law: Moments) -> Band:
    """Hold one draw of a convolution: its units stand off independently, its bias is known."""
    axis = x.dim() - len(module.kernel_size) - 1
    if axis == 0:  # one input, without a batch
        x, squares = x[None], squares[None]
    own, mean = own_variance(module, x, squares)
    of_bias = min(bias_moments(module).second_moment / law.second_moment, 1.0)
    rest = 1 - of_bias
    variance = own * rest * rest + 4 * of_bias * rest * mean
    return one_input().plus(variance / module.out_channels).band(law.second_moment, COVERAGE)


def _adder(module: Any, x: Tensor) -> Any:
    """Make a layer that adds up what one unit of each group sees."""
    shape = list(module.weight.shape)
    if isinstance(module, _ConvTransposeNd) or is_conv1d(module):
        shape[1] = 1
    else:
        shape[0] = getattr(module, "groups", 1)
    ones = torch.ones(shape, dtype=x.dtype, device=x.device)
    made: Any = twin(module, ones, torch.zeros(1, dtype=x.dtype, device=x.device))
    if is_conv1d(module):
        made.nf = 1
    else:
        made._parameters["bias"] = None
    return made.forward


def _by_draws(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Expected | None:
    """Draw the weights again and again, and run the layer on what it received."""
    if not any(p.dim() > 1 and p.is_floating_point() for p in module.parameters()):
        return None
    fresh = unhooked(module)
    laws = [(p, Moments.of(p)) for p in fresh.parameters() if p.dim() > 1]
    found = []
    for _ in range(_DRAWS):
        for parameter, law in laws:
            parameter.normal_(law.mean, law.std)
        output = first_floating(fresh(*copied(args), **copied(kwargs)))
        if output is None or not output.numel():
            return None
        found.append(Moments.of(output))
    return _from_sample(found)


def _from_sample(found: list[Moments]) -> Expected | None:
    """Take the average of some draws, and where one more may fall."""
    seconds = torch.tensor([each.second_moment for each in found], dtype=torch.float64)
    if not bool((seconds > 0).all()) or not bool(seconds.isfinite().all()):
        return None
    logs = seconds.log()
    reach = _STUDENT * float(logs.std()) * math.sqrt(1 + 1 / len(found))
    middle = float(logs.mean())
    second = float(seconds.mean())
    mean = sum(each.mean for each in found) / len(found)
    band = (math.exp(middle - reach), math.exp(middle + reach))
    return Expected(Moments(mean, max(second - mean * mean, 0.0)), band)
