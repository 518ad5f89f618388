"""Layers that divide by what they measure: the scale of what came in is gone."""

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from handwave.moments import Moments
from handwave.running import own_class
from handwave.signals import Backward, NoTheoryError, Signal, number
from handwave.wandering import Units, Wander, one_input
from handwave.weights import fans, is_conv1d

# How well E[1/var] is known, relative, at least and for each unit of its variance; and what
# float32 leaves of a mean of squares.
_INVERSE_ERROR, _UNLIKE_ERROR, _ROUNDING = 0.02, 0.15, 1e-7

# How well it is known what a settled size had varied by, relative: lengths before and after a
# mean is taken out differ, and those of positions at an edge differ more.
_SETTLED_ERROR, _EDGE_ERROR = 0.1, 0.3

_MOST_UNLIKE = 0.5  # of what is divided by: its relative variance, for an E[1/var] to speak of

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DIMS = {nn.BatchNorm1d: range(2, 4), nn.BatchNorm2d: range(4, 5), nn.BatchNorm3d: range(5, 6)}
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class _Scale:
    """Hold what a norm divides by, and what it is taken over.

    Args:
        var: what is divided by the root of, without eps.
        eps: that keeps it from zero.
        count: numbers that it is taken over.
        inverse: E[1/(var + eps)], over inputs and draws.
        unlike: relative variance of var, over channels or inputs; beyond 1/2, E[1/var] of so
            few numbers is large or infinite.
        centred: whether their mean is taken out.
        square: what is divided, by position, up to a factor; None where it is as it came.
    """

    var: float
    eps: float
    count: float
    inverse: float
    unlike: float
    centred: bool = True
    square: Tensor | None = None

    @property
    def slope(self) -> float | None:
        """Return what a gradient's square is multiplied by; None where it has no expectation.

        The mean and, but for eps, the direction of the signal are taken out of the gradient.
        """
        lost = self.eps * self.inverse
        left = 1 - (self.centred + 1 - lost * lost) / self.count
        return self.inverse * left if self.unlike <= _MOST_UNLIKE and left > 0 else None


def batch_norm(layer: Any, signal: Signal) -> tuple[Signal, Backward]:
    """Normalize each channel over the batch (training mode), or by what was kept of others."""
    _check_channels(layer, layer.num_features, signal)
    if not by_batch(layer):
        return _by_buffers(layer, signal)
    if signal.shape is None:
        raise NoTheoryError("no theory of how far inputs differ: pass a tensor")
    if math.prod(signal.shape) == layer.num_features:
        raise ValueError(
            f"{own_class(layer).__name__} in training mode needs more than one value per channel, "
            f"but gets an input of shape {signal.shape}; call .eval() or pass more inputs"
        )
    centred, rest = _centred(signal.summed_along(1))
    var = float(signal.second.mean()) * rest
    # Channels differ in their variance: E[1/var] of a χ² that has this relative variance.
    unlike = 2 * (centred.mean(torch.square) + signal.units.wander.noise)
    inverse, luck = _inverse(var, layer.eps, unlike)
    # Each channel has its own mean, from which positions at an edge are further away.
    square = centred.same.mean(0) if signal.second.numel() > 1 else None
    scale = _Scale(var, layer.eps, 1 / signal.wander.share, inverse, unlike, square=square)
    # Where the mean that is taken out wanders, var does so less: as channels drawn one by one.
    drawn = one_input().plus(luck[0] / layer.num_features).cumulants
    cumulants = min(signal.wander.cumulants, drawn, key=lambda known: known[1])
    centred = replace(centred, cumulants=cumulants).plus(luck[1] / layer.num_features)
    after, back = _normalized(layer, signal, centred, scale)
    return replace(after, units=_of_one_size(signal, after)), back


def _inverse(var: float, eps: float, unlike: float) -> tuple[float, tuple[float, float]]:
    """Follow 1/(v + eps) of one channel, v as Gamma around var.

    Returns:
        Its expectation; and its relative variance, in proportion to v and besides that.
    """
    if not var > 0 or unlike < _ROUNDING:
        return 1 / ((var + eps) or math.inf), (0.0, 0.0)
    low, high = -12 * math.sqrt(unlike) - 40 * unlike, 12 * math.sqrt(unlike)
    logs = torch.linspace(low, min(high, 6.0), 4000, dtype=torch.float64)
    weights = torch.softmax((logs - logs.exp()) / unlike, dim=0)  # of log(v/var)
    inverse = 1 / (var * logs.exp() + eps)
    mean = float(weights @ inverse)
    off = inverse / mean - 1
    with_v = float(weights @ (off * logs.exp())) ** 2 / unlike
    return mean, (with_v, max(float(weights @ off.square()) - with_v, 0.0))


def _of_one_size(signal: Signal, after: Signal) -> Units:
    """Give every unit one size over the batch."""
    seen = after.wander
    # As the units saw it when they were drawn, if all met the same weights.
    if signal.base is None and signal.function and signal.units.phases == 1:
        seen = replace(_centred(signal.units.wander)[0], cumulants=seen.cumulants)
    settled = 2 * (seen.mean(torch.square) + seen.noise)
    edges = float(signal.wander.far.mean(0).var(correction=0))
    rest = 1 - signal.wander.mean(lambda likeness: likeness, power=1.0)
    unsure = _SETTLED_ERROR * settled + (_EDGE_ERROR * edges / rest**2 if rest > _ROUNDING else 0.0)
    return replace(after.units, wander=seen, known=settled, settled=settled, unsure=unsure)


def _centred(wander: Wander) -> tuple[Wander, float]:
    """Take the mean over all points out of each; return the share that is left as well."""
    shared = wander.mean(lambda likeness: likeness, power=1.0)
    rest = max(1 - shared, 0.0)
    if rest < _ROUNDING:  # all inputs are the same one
        return one_input(), 0.0
    centred = wander.mapped(lambda likeness: (likeness - shared) / rest)
    # What a position has in common with all others; at an edge that is less.
    own = wander.far.mean(0)
    own = own + (shared - own.mean())
    # A point s times as long as others at its place is so in what it shares with them.
    longer = (wander.same / wander.same.mean(0).clamp_min(1e-9)).clamp_min(0).sqrt()
    same = wander.same - 2 * longer * own + shared
    same = same / (float(same.mean()) or 1.0)
    lengths = shared**2 * float(longer.var(0, correction=0).mean())
    far = _centred_twice(wander.far, own, lengths) / rest
    return replace(centred, same=same, far=far), rest


def _centred_twice(far: Tensor, own: Tensor, lengths: float) -> Tensor:
    """Take out what both points of a pair have in common with all.

    Args:
        far: likeness of pairs.
        own: what each position has in common with all; of a pair, one position is known.
        lengths: variance of that over the points at one position, of which none is known.
    """
    left = far - own
    known = float(own.var(correction=0)) + 2 * lengths
    kept = max(1 - known / (float(left.square().mean()) or 1.0), 0.0)
    return left * math.sqrt(kept)


def layer_norm(layer: nn.LayerNorm, signal: Signal) -> tuple[Signal, Backward]:
    """Normalize each input, or position, over its own units."""
    tail = _checked_tail(layer, signal)
    return _by_units(layer, signal, math.prod(tail), -len(tail))


def group_norm(layer: nn.GroupNorm, signal: Signal) -> tuple[Signal, Backward]:
    """Normalize groups of channels of each input, over its positions as well."""
    _check_channels(layer, layer.num_channels, signal)
    count = layer.num_channels // layer.num_groups * math.prod(signal.map)
    return _by_units(layer, signal, count, 1)


def rms_norm(layer: nn.RMSNorm, signal: Signal) -> tuple[Signal, Backward]:
    """Divide each input, or position, by the root of its second moment; the mean stays in."""
    tail = _checked_tail(layer, signal)
    wander, var = signal.summed_along(-len(tail)), float(signal.second.mean())
    eps = torch.finfo(torch.float32).eps if layer.eps is None else layer.eps
    inverse = wander.inverse_square(var, eps)
    scale = _Scale(var, eps, math.prod(tail), inverse, wander.lengths, centred=False)
    return _normalized(layer, signal, _of_unit_length(wander), scale)


def restart(layer: Any) -> Signal | None:
    """Return what a normalization hands on whatever came in, if its scale is known at all.

    A signal without a known shape, its inputs as alike as can be.
    """
    law = own_class(layer)
    sizes = {nn.LayerNorm: "normalized_shape", nn.RMSNorm: "normalized_shape"}
    if law in sizes:
        count = math.prod(layer.normalized_shape)
    elif law in BATCH_NORMS and by_batch(layer):
        count = layer.num_features
    elif law is nn.GroupNorm:
        count = layer.num_channels
    else:
        return None
    weight, bias = affine(layer)
    units = Units(one_input(), float(count), 2.0)
    mean, second = number(bias.mean), number(weight.second_moment + bias.second_moment)
    return Signal(None, mean, second, bias.mean**2, one_input(), units, drawn=False)


def affine(layer: Any) -> tuple[Moments, Moments]:
    """Return the moments of a norm's weight and bias, 1 and 0 without them."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    return (
        Moments(1.0, 0.0) if weight is None else Moments.of(weight),
        Moments(0.0, 0.0) if bias is None else Moments.of(bias),
    )


def by_batch(layer: Any) -> bool:
    """Tell whether a batch norm uses the batch's own statistics."""
    return layer.training or layer.running_var is None


def kept_before(layer: nn.Module, following: nn.Module) -> float:
    """Return what is left of a layer's input gradient if a norm over the batch follows at once.

    A unit of large weights has a large variance, by which the norm divides its gradient: of
    E[|w|²/var], E[|w|²]·E[1/var] leaves out −Cov(|w|², var) = −2/fan_in, relative.
    """
    summed = isinstance(layer, nn.Linear | _ConvNd) or is_conv1d(layer)
    normalized = own_class(following) in BATCH_NORMS and by_batch(following)
    return 1 - 2 / max(fans(layer).fan_in, 4.0) if summed and normalized else 1.0


def _check_channels(layer: nn.Module, channels: int, signal: Signal) -> None:
    shape, law = signal.shape, own_class(layer)
    if shape is None:
        return
    dims = _DIMS.get(law, range(2, sys.maxsize))
    if len(shape) not in dims or shape[1] != channels:
        raise ValueError(
            f"{law.__name__} is for {channels} channels along axis 1, "
            f"but gets an input of shape {shape}"
        )
    signal.check_units(1, 1)


def _checked_tail(layer: Any, signal: Signal) -> tuple[int, ...]:
    """Return the sizes that a norm is taken over, which must be the signal's last ones."""
    shape, tail = signal.shape, tuple(layer.normalized_shape)
    if shape is not None and shape[-len(tail) :] != tail:
        name = own_class(layer).__name__
        raise ValueError(f"{name} is for inputs (*, {tail}), but gets one of shape {shape}")
    signal.check_units(-len(tail), -1)
    return tail


def _by_units(layer: Any, signal: Signal, count: float, axis: int) -> tuple[Signal, Backward]:
    """Take each input's mean over its units out, and divide by the root of the variance."""
    wander = signal.summed_along(axis)
    # Var over count units, of which two have E[y_i·y_k] = common.
    var = max((float(signal.second.mean()) - signal.common) * (1 - 1 / count), 0.0)
    inverse = wander.inverse_square(var, layer.eps)
    if signal.sample is not None:  # the variances themselves
        each = signal.sample.double().reshape(-1, int(count)).var(1, correction=0)
        var, inverse = float(each.mean()), float((1 / (each + layer.eps)).mean())
    scale = _Scale(var, layer.eps, count, inverse, wander.lengths)
    return _normalized(layer, signal, _of_unit_length(wander), scale)


def _of_unit_length(wander: Wander) -> Wander:
    """Give all inputs one length; its positions keep theirs, in proportion."""
    maps = wander.same.reshape(len(wander.same), -1)
    alike = wander.same / maps.mean(1).clamp_min(1e-9).reshape(-1, *[1] * (wander.same.dim() - 1))
    return replace(wander, same=alike, lengths=0.0)


def _normalized(
    layer: Any, signal: Signal, wander: Wander, scale: _Scale
) -> tuple[Signal, Backward]:
    """Divide by √(var + eps), and put weight and bias on."""
    var, eps = max(scale.var, 0.0), scale.eps
    if not var + eps:
        raise NoTheoryError("no theory: it divides zero by zero")
    (weight, bias), mean = affine(layer), signal.moments.mean
    shift = mean if scale.centred else 0.0
    square = signal.second - 2 * shift * signal.mean + shift * shift
    square = square if scale.square is None else scale.square
    # By position, as it came; pooled, E[var/(var + eps)] = 1 − eps·E[1/(var + eps)].
    lost = eps * scale.inverse
    square = square * ((1 - lost) / (float(square.mean()) or 1.0))
    kept = weight.mean * (signal.mean - shift) / math.sqrt(var + eps)
    second = weight.second_moment * square + 2 * bias.mean * kept + bias.second_moment
    # What is left of the wandering: that of what eps takes away, and rounding.
    unsure = max(_INVERSE_ERROR, _UNLIKE_ERROR * scale.unlike)
    wander = wander.scaled(lost).plus((unsure * lost) ** 2 + _ROUNDING**2)
    alike = wander.mean(torch.square)
    # Of plain products, with power 1: a norm over the batch makes their mean 0.
    tilt = wander.mean(torch.clone, power=1.0)
    known = 2 * (alike + wander.noise)
    # Of the units' mean all is known where it is taken out, else what their weights tell of it.
    as_drawn = signal.units.known_mean if signal.base is None else 0.0
    units = Units(wander, signal.units.count, known, tilt if scale.centred else as_drawn)
    # Of Gaussian units, the same for all channels: Gaussian again.
    plain = signal.base is None and not weight.var and not bias.second_moment
    after = replace(
        signal,
        mean=kept + bias.mean,
        second=second,
        common=bias.mean**2 + (0.0 if scale.centred else signal.common / (var + eps)),
        wander=wander,
        units=units,
        function=signal.function if plain else None,
        base=None,
        sample=None,
    )
    slope = scale.slope
    if slope is None:
        return after, lambda gradient: None
    return after, lambda gradient: gradient * (weight.second_moment * slope)


def _by_buffers(layer: Any, signal: Signal) -> tuple[Signal, Backward]:
    """Divide by what was measured on other batches: an affine map of each channel."""
    with torch.no_grad():
        scale = (layer.running_var.double() + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -layer.running_mean * scale
        shift = shift if layer.bias is None else shift + layer.bias
    slope, offset = Moments.of(scale), Moments.of(shift)
    cross = float((scale * shift).mean())
    mean = slope.mean * signal.mean + offset.mean
    second = slope.second_moment * signal.second + 2 * cross * signal.mean + offset.second_moment
    plain = slope.var <= 1e-12 * slope.second_moment and not offset.second_moment
    # Which channel meets which factor is not asked: of the model's own input, that is assumed.
    wander = signal.wander if plain or signal.sample is None else one_input()
    after = replace(
        signal, mean=mean, second=second, function=_scaled(signal, slope.mean) if plain else None,
        wander=wander,
        common=slope.mean**2 * signal.common + 2 * slope.mean * offset.mean * signal.moments.mean
        + offset.mean**2, sample=None, base=signal.base or signal,
    )  # fmt: skip
    return after, lambda gradient: gradient * slope.second_moment


def _scaled(signal: Signal, factor: float) -> Any:
    """Put a factor behind what was put on the units."""
    function = signal.function
    return None if function is None else lambda z: factor * function(z)
