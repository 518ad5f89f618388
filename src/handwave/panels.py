"""What a function makes of many Gaussians at once, on panels that they share."""

import math

import torch
from torch import Tensor

from handwave.activations import activation_moments
from handwave.moments import Moments
from handwave.quadrature import Elementwise, halved, on_panels

_ALIKE = 1e-6  # relative variance of a variance that moves no moment by more

# So many positions are integrated one by one; more of them on panels that they share, out to so
# many deviations, with so many nodes each.
_FEW, _REACH, _NODES = 4, 12, 12
_PRECISE, _CLOSE = 1e-10, 1e-6  # relative: what halving may change; what two ways may differ by
_DEPTH, _MOST_PANELS = 40, 4096
_AT_ONCE = 1024  # positions, so that a table of all nodes stays in memory


def of_each(function: Elementwise, means: Tensor, seconds: Tensor, unlike: float) -> Tensor:
    """Compute mean and second moment of function(z), for many Gaussian z.

    Args:
        function: elementwise, on float64.
        means: of every z (positions,).
        seconds: moments of every z (positions,).
        unlike: relative variance of the variance of each, as `_of_units` takes it.

    Returns:
        Means and second moments (positions, 2).

    Raises:
        ValueError: as `activation_moments`; or the positions are many, and the function grows too
            fast for panels that they share.
    """
    if len(means) > _FEW:
        return _of_many(function, means, seconds, unlike)
    pairs = zip(means.tolist(), seconds.tolist(), strict=True)
    found = [_of_units(function, mean, second, unlike) for mean, second in pairs]
    return torch.tensor(found, dtype=torch.float64)


def _of_units(
    function: Elementwise, mean: float, second: float, unlike: float
) -> tuple[float, float]:
    """Return mean and second moment of function(z), z Gaussian of a variance that varies.

    Args:
        function: elementwise.
        mean: of all z.
        second: moment of all z.
        unlike: relative variance of the variance, over inputs and draws: as Gamma, of which
            Gauss' rule of two nodes has the first three moments.
    """
    var = max(second - mean * mean, 0.0)
    made = [
        (part, activation_moments(function, Moments(mean, var * at)))
        for at, part in variances(unlike)
    ]
    return sum(w * each.mean for w, each in made), sum(w * each.second_moment for w, each in made)


def variances(unlike: float) -> list[tuple[float, float]]:
    """Return the nodes and weights that stand for a variance of mean 1 that varies."""
    if unlike <= _ALIKE:
        return [(1.0, 1.0)]
    root = math.sqrt(1 / unlike + 1)
    return [((root + s) * root * unlike, (1 - s / root) / 2) for s in (-1, 1)]


def _of_many(function: Elementwise, means: Tensor, seconds: Tensor, unlike: float) -> Tensor:
    """Do what `_of_units` does for many z at once: two tensors (positions,) to (positions, 2)."""
    var = (seconds - means * means).clamp_min(0)
    made = torch.zeros(len(means), 2, dtype=torch.float64)
    for at, part in variances(unlike):
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
    """Return nodes and weights (nodes,) for f and f² times any of these Gaussians.

    Panels are halved until halving changes no integral over one: a kink or a jump may stand
    anywhere.
    """
    low, high, wide = float(means.min()), float(means.max()), float(stds.max())
    edges, done = _even(low, high, float(stds.min()), wide), []  # (panels, 2)
    scale = torch.zeros(2, dtype=torch.float64)
    for _ in range(_DEPTH):
        middle, halves = edges.mean(dim=1), halved(edges)
        away = torch.stack([low - middle, middle - high]).amax(0).clamp_min(0) / wide
        most = torch.exp(away * away / -2)[:, None]  # of any of the densities
        whole = _over(function, edges) * most
        parts = _over(function, halves).unflatten(0, (-1, 2)).sum(1) * most
        scale = torch.maximum(scale, whole.abs().sum(0))
        rough = ((parts - whole).abs() > _PRECISE * scale).any(1)
        done.append(edges[~rough])
        edges = halves[rough.repeat_interleave(2)]
        if not 0 < len(edges) <= _MOST_PANELS:
            break
    nodes, weights = on_panels(torch.cat([*done, edges]), _NODES)
    return nodes.flatten(), weights.flatten()


def _even(low: float, high: float, width: float, wide: float) -> Tensor:
    """Return panels (panels, 2) as wide as the narrowest, so far out that the widest ends."""
    # From a multiple of the width on, so that 0, where most kinks are, is between two panels.
    first, last = (math.floor(end / width) for end in (low - _REACH * wide, high + _REACH * wide))
    line = width * torch.arange(first, last + 2, dtype=torch.float64)
    return torch.stack([line[:-1], line[1:]], dim=1)


def _over(function: Elementwise, edges: Tensor) -> Tensor:
    """Integrate f and f² over each panel; (panels, 2) to (panels, 2)."""
    nodes, weights = on_panels(edges, _NODES)
    y = function(nodes)  # (panels, nodes)
    return torch.stack([y * weights, y * y * weights], dim=2).sum(dim=1)
