"""What one layer makes of a signal that is known by its moments: a law for every kind."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handwave.activations import Elementwise, activation_moments, elementwise
from handwave.moments import Moments
from handwave.norms import BATCH_NORMS, batch_norm, group_norm, layer_norm, rms_norm
from handwave.running import own_class
from handwave.signals import Backward, NoTheoryError, Signal, number, of_input, shaping
from handwave.sums import CONVOLUTIONS, convolution, embedding, linear
from handwave.weights import is_conv1d

_ALIKE = 1e-6  # relative variance of a variance that moves no moment by more

# So many positions are integrated one by one; more of them on panels that they share, out to so
# many deviations, with so many nodes each.
_FEW, _REACH, _NODES = 4, 12, 12
_PRECISE, _CLOSE = 1e-10, 1e-6  # relative: what halving may change; what two ways may differ by
_DEPTH, _MOST_PANELS = 40, 4096
_AT_ONCE = 1024  # positions, so that a table of all nodes stays in memory

Law = Callable[[Any, Signal], tuple[Signal, Backward]]


def apply_law(layer: nn.Module, signal: Signal) -> tuple[Signal, Backward]:
    """Say what a layer makes of a signal, and of the gradient that comes back.

    Raises:
        NoTheoryError: the layer has no law, or not for this signal.
        ValueError: the layer would refuse an input of the signal's shape.
    """
    law, sample = _law_of(layer), signal.sample
    if sample is not None and not sample.is_floating_point() and law not in _FOR_INTEGERS:
        raise NoTheoryError("no theory for integers" if law else "no theory")
    if law is not None:
        return law(layer, signal)
    plain = not any(True for _ in (*layer.parameters(), *layer.buffers()))
    if plain or isinstance(layer, nn.PReLU):
        return activation(layer, signal)
    raise NoTheoryError("no theory")


def _law_of(layer: nn.Module) -> Law | None:
    """Find the law of a layer's class; a subclass with a forward of its own has none."""
    own = own_class(layer)
    if is_conv1d(layer):
        return linear
    return next(
        (_LAWS[kind] for kind in own.__mro__ if kind in _LAWS and own.forward is kind.forward), None
    )


def activation(layer: nn.Module, signal: Signal) -> tuple[Signal, Backward]:
    """Put a function on Gaussian units, by quadrature; on the model's own input, as it stands."""
    try:
        bare = _without_hooks(layer)
        value, slope = elementwise(bare)[0], elementwise(bare, derivative=True)[0]
        if signal.sample is not None:
            return _on_sample(value, slope, signal)
        if signal.function is None:
            raise NoTheoryError("no theory: what enters is not Gaussian")
        return _on_units(value, slope, signal)
    except NoTheoryError:
        raise
    except (TypeError, ValueError) as error:
        # What torch says of a probe that it cannot take tells nothing about the signal.
        reason = "" if error.__cause__ else f": {error}"
        raise NoTheoryError(f"no theory{reason}") from error


def _without_hooks(layer: nn.Module) -> nn.Module:
    """Copy a layer, on the surface only; its hooks are for real signals, not for quadrature."""
    bare = copy.copy(layer)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(bare, name, OrderedDict())
    return bare


def _on_units(value: Elementwise, slope: Elementwise, signal: Signal) -> tuple[Signal, Backward]:
    base, inner = signal.base or signal, signal.function or value

    def function(z: Tensor) -> Tensor:
        return value(inner(z))

    mean, second = _by_position(function, base)
    factor = _by_position(lambda z: slope(inner(z)), base)[1]
    series = shaping(function, base)
    law = base.moments
    rho = (base.common - law.mean**2) / law.var if law.var else 0.0
    after = replace(
        signal,
        mean=mean,
        second=second,
        common=series.product(max(-1.0, min(rho, 1.0))),
        wander=base.units.through(series),
        function=function,
        base=base,
    )
    return after, lambda gradient: gradient * factor


def _on_sample(value: Elementwise, slope: Elementwise, signal: Signal) -> tuple[Signal, Backward]:
    """Use the input itself: it need not be Gaussian."""
    sample = signal.sample
    assert sample is not None
    factor = Moments.of(slope(sample.double())).second_moment
    return of_input(value(sample.double()).to(sample.dtype)), lambda gradient: gradient * factor


def _by_position(function: Elementwise, base: Signal) -> tuple[Tensor, Tensor]:
    """Return mean and second moment of function(z) at every position."""
    table = torch.stack(torch.broadcast_tensors(base.mean, base.second))  # (2, *map)
    # Rounding alone tells apart what symmetry makes equal.
    rows = table.reshape(2, -1).T.to(torch.float32)
    alike, place = torch.unique(rows, dim=0, return_inverse=True)
    means, seconds = alike.double().T
    unlike = base.units.unlike
    if len(alike) > _FEW:
        made = _of_many(function, means, seconds, unlike)
    else:
        pairs = zip(means.tolist(), seconds.tolist(), strict=True)
        found = [_of_units(function, mean, second, unlike) for mean, second in pairs]
        made = torch.tensor(found, dtype=torch.float64)
    mean, second = made[place].T
    return mean.reshape(table[0].shape), second.reshape(table[0].shape)


def _of_units(
    function: Elementwise, mean: float, second: float, unlike: float
) -> tuple[float, float]:
    """Return mean and second moment of function(z), z Gaussian of a variance that varies.

    Args:
        function: elementwise.
        mean: of all z.
        second: moment of all z.
        unlike: relative variance of the variance, over inputs and draws: as Gamma, of which
            Gauss' rule of two nodes has the first three moments. Below 0, of which no variance
            is capable, what it would do is done the other way round.
    """
    var = max(second - mean * mean, 0.0)
    made = [
        (part, activation_moments(function, Moments(mean, var * at)))
        for at, part in _variances(unlike)
    ]
    return sum(w * each.mean for w, each in made), sum(w * each.second_moment for w, each in made)


def _variances(unlike: float) -> list[tuple[float, float]]:
    """Return the nodes and weights that stand for a variance of mean 1 that varies."""
    if abs(unlike) <= _ALIKE:
        return [(1.0, 1.0)]
    if unlike < 0:
        return [(1.0, 2.0), *((at, -part) for at, part in _variances(-unlike))]
    root = math.sqrt(1 / unlike + 1)
    return [((root + s) * root * unlike, (1 - s / root) / 2) for s in (-1, 1)]


def _of_many(function: Elementwise, means: Tensor, seconds: Tensor, unlike: float) -> Tensor:
    """Do what `_of_units` does for many z at once: two tensors (positions,) to (positions, 2)."""
    var = (seconds - means * means).clamp_min(0)
    made = torch.zeros(len(means), 2, dtype=torch.float64)
    for at, part in _variances(unlike):
        made += part * _expected(function, means, (at * var).sqrt())
    # One of them by the other way, which refuses what has no moments, and goes further out.
    last = int(seconds.argmax())
    exact = _of_units(function, float(means[last]), float(seconds[last]), unlike)[1]
    if not abs(float(made[last, 1]) - exact) <= _CLOSE * exact:
        raise ValueError("the function grows too fast, or is too rough, for a map of positions")
    return made


def _expected(function: Elementwise, means: Tensor, stds: Tensor) -> Tensor:
    """Return E[f(z)] and E[f(z)²] of many Gaussian z; (positions, 2).

    Those of about one place, and of one size to a factor of two, share nodes and values there.
    """
    # So narrow a Gaussian is a point; of 0, no node is wide enough.
    stds = stds.clamp_min(1e-9 * float(means.abs().max() + stds.max()))
    size = torch.frexp(stds).exponent.double()
    cells = torch.stack([size, torch.floor(means / 4 / torch.exp2(size))])
    kinds, cell = torch.unique(cells, dim=1, return_inverse=True)
    made = torch.empty(len(means), 2, dtype=torch.float64)
    for index in range(kinds.shape[1]):
        inside = cell == index
        made[inside] = _of_one_size(function, means[inside], stds[inside])
    return made


def _of_one_size(function: Elementwise, means: Tensor, stds: Tensor) -> Tensor:
    """Integrate f and f² against Gaussians of about one place and size."""
    z, weights = _mesh(function, means, stds)
    y = function(z)
    products = torch.stack([y, y * y], dim=1) * weights[:, None]  # (nodes, 2)
    parts = []
    for mean, std in zip(means.split(_AT_ONCE), stds.split(_AT_ONCE), strict=True):
        t = (z - mean[:, None]) / std[:, None]  # (positions, nodes)
        parts.append(torch.exp(t * t / -2) @ products / std[:, None])
    return torch.cat(parts) / math.sqrt(2 * math.pi)


def _mesh(function: Elementwise, means: Tensor, stds: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights for f and f² times any of these Gaussians.

    Panels as wide as the narrowest are halved until halving changes no integral over one: a
    kink or a jump may stand anywhere.
    """
    width, wide = float(stds.min()), float(stds.max())
    low, high = float(means.min()), float(means.max())
    # From a multiple of the width on, so that 0, where most kinks are, is between two panels.
    first, last = (math.floor(end / width) for end in (low - _REACH * wide, high + _REACH * wide))
    line = width * torch.arange(first, last + 2, dtype=torch.float64)
    edges, done = torch.stack([line[:-1], line[1:]]), []  # (2, panels)
    scale = torch.zeros(2, 1, dtype=torch.float64)
    for _ in range(_DEPTH):
        middle = edges.mean(0)
        halves = torch.stack([edges[0], middle, middle, edges[1]]).reshape(2, 2, -1).movedim(1, 0)
        away = torch.stack([low - middle, middle - high]).amax(0).clamp_min(0) / wide
        whole = _panels(function, edges) * torch.exp(away * away / -2)
        parts = _panels(function, halves.flatten(1)).unflatten(1, (2, -1)).sum(1)
        error = (parts * torch.exp(away * away / -2) - whole).abs()
        scale = torch.maximum(scale, whole.abs().sum(1, keepdim=True))
        rough = (error > _PRECISE * scale).any(0)
        done.append(edges[:, ~rough])
        edges = halves[:, :, rough].flatten(1)
        if not 0 < edges.shape[1] <= _MOST_PANELS:
            break
    nodes, weights = _lobatto()
    edges = torch.cat([*done, edges], dim=1)
    widths = (edges[1] - edges[0])[:, None]
    return (edges[0][:, None] + widths * nodes).flatten(), (widths * weights).flatten()


def _panels(function: Elementwise, edges: Tensor) -> Tensor:
    """Integrate f and f² over panels: (2, panels) to (2, panels)."""
    nodes, weights = _lobatto()
    widths = (edges[1] - edges[0])[:, None]
    y = function(edges[0][:, None] + widths * nodes)  # (panels, nodes)
    return torch.stack([y, y * y]) @ weights * widths[:, 0]


@cache
def _lobatto() -> tuple[Tensor, Tensor]:
    """Return nodes and weights on [0, 1], with nodes at both ends: no jump stands beyond one."""
    legendre = np.polynomial.Legendre.basis(_NODES - 1)
    nodes = np.concatenate([[-1.0], legendre.deriv().roots(), [1.0]])
    weights = 1 / (_NODES * (_NODES - 1) * legendre(nodes) ** 2)
    return torch.from_numpy((1 + nodes) / 2), torch.from_numpy(weights)


def unchanged(layer: nn.Module, signal: Signal) -> tuple[Signal, Backward]:
    """Hand everything on."""
    return signal, lambda gradient: gradient


def dropout(layer: nn.Dropout, signal: Signal) -> tuple[Signal, Backward]:
    """Keep each entry with probability 1 − p, divided by it: the second moment grows by it."""
    kept = 1 - layer.p
    if not layer.training or not layer.p:
        return unchanged(layer, signal)
    if not kept:
        nothing = replace(signal, mean=number(0.0), second=number(0.0), common=0.0)
        return replace(nothing, function=None, sample=None), lambda gradient: 0 * gradient
    wander = signal.wander
    # Two points have masks of their own; a point with itself has one.
    thinned = replace(wander.mapped(lambda likeness: likeness * kept), same=wander.same)
    after = replace(
        signal,
        second=signal.second / kept,
        wander=thinned.plus((1 / kept - 1) * _concentration(layer, signal)),
        function=None,
        sample=None,
    )
    return after, lambda gradient: gradient / kept


# E[y⁴]/E[y²]² of a signal behind a ReLU.
_KURTOSIS = 6.0


def _concentration(layer: nn.Module, signal: Signal) -> float:
    """Return Σ(y²)²/(Σy²)² over what is masked together: entries, or channels of one input."""
    channels = own_class(layer) is not nn.Dropout
    if signal.sample is not None:
        squares = signal.sample.double().square()
        axes = tuple(range(-int(own_class(layer).__name__[7:-1]), 0)) if channels else ()
        parts = squares.sum(axes) if axes else squares
        return float(parts.square().sum()) / (float(parts.sum()) ** 2 or 1.0)
    together = signal.wander.far[0].numel() if channels else 1
    return _KURTOSIS * min(signal.wander.share * together, 1.0) / signal.units.count


def reshape(layer: nn.Flatten, signal: Signal) -> tuple[Signal, Backward]:
    """Flatten: the same numbers in another shape; positions become units."""
    if signal.shape is None:
        return signal, _pooled
    shape = tuple(layer.forward(torch.empty(signal.shape, device="meta")).shape)
    if signal.sample is not None:
        return of_input(layer.forward(signal.sample)), _pooled
    dims = len(signal.shape)
    start, end = (place % dims for place in (layer.start_dim, layer.end_dim))
    axis = signal.unit_axis
    axis = dims - 1 if axis is None else axis
    if end < axis or start == end:
        return replace(signal, shape=shape), lambda gradient: gradient
    if start > axis or end < dims - 1:
        raise NoTheoryError("no theory: it merges positions, and leaves the units apart")
    positions = math.prod(signal.shape[start:]) // signal.shape[axis]
    units = replace(signal.units, wander=signal.units.wander.flat(positions))
    after = replace(signal.pooled(shape), wander=signal.wander.flat(positions), units=units)
    return after, _pooled


def _pooled(gradient: Tensor) -> Tensor:
    return gradient.mean()


_LAWS: dict[type[nn.Module], Law] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.Identity: unchanged,
    nn.Flatten: reshape,
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), dropout),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.RMSNorm: rms_norm,
    nn.Sequential: unchanged,  # a row only without layers
}

_FOR_INTEGERS = (embedding, reshape, unchanged)
