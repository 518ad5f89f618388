"""Points that are longer than others: a function is put on each pair at the length of its two."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from handwave.pairs import beside
from handwave.shaping import Shaping, squared_skewness
from handwave.wandering import Wander

# Square lengths up to so many times the average, and down to its inverse, are told apart in so
# many steps each way.
_LONGEST, _STEPS = 30.0, 24
SHORTEST = 1e-9  # where pooling is followed roughly, a length may come out below nothing


def of_pairs(wander: Wander, points: Tensor) -> dict[str, Tensor]:
    """Multiply a number of each point with the other's of its pair, by class.

    Nothing for pairs whose points are not known.

    Args:
        wander: the pairs.
        points: shape (points, *map).
    """
    ends = wander.ends
    if ends is None:
        return {}
    first, other = ends.of(points, len(wander.far))
    made = {"same": points * points, "far": first * ends.moved(other), "aligned": first * other}
    if points.dim() > 1:
        inside, next_ = (points[: len(getattr(wander, name))] for name in ("within", "near"))
        made |= {"within": inside * ends.moved(inside), "near": next_ * beside(next_)}
    return made


def lengths(wander: Wander) -> dict[str, Tensor]:
    """Return the square lengths of points, and the products of both lengths of pairs, by class."""
    return of_pairs(wander, wander.same.clamp_min(SHORTEST).sqrt())


def correlations(wander: Wander, shaping: Shaping, long: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the correlation of z by class of pairs, at the products of both lengths."""
    return {
        name: (shaping.unbounded(getattr(wander, name)) / long[name]).clamp(-1, 1) for name in long
    }


# What to compute of pairs of about one length: from the shaping there, E[f²], and likeness over
# that length; returns (values, pairs).
OfPairs = Callable[[Shaping, Tensor, Tensor], Tensor]


def at_lengths(shaping: Shaping, length: Tensor, likeness: Tensor, fn: OfPairs) -> Tensor:
    """Compute a function of each pair at its own length.

    Args:
        shaping: of f, at the average length.
        length: square lengths over their average.
        likeness: over the average of all lengths.
        fn: as many values of each pair as it likes.

    Returns:
        Shape (values, *likeness.shape).
    """
    length, likeness = torch.broadcast_tensors(length.clamp_min(SHORTEST), likeness)
    step = (length.clamp(1 / _LONGEST, _LONGEST).log() / math.log(_LONGEST) * _STEPS).round()
    share, found = shaping.mean_share, torch.empty(0)
    scaled = (likeness / (share + (1 - share) * length)).flatten()
    steps, order = step.flatten().sort()
    each, counts = steps.unique_consecutive(return_counts=True)
    for at, there in zip(each.tolist(), order.split(counts.tolist()), strict=True):
        long = _LONGEST ** (at / _STEPS)
        series = shaping.longer(long)
        # Between two steps, the second moment follows a power of the length.
        second = series.second * (length.flatten()[there] / long) ** series.slope
        values = fn(series, second, scaled[there])
        if not found.numel():
            found = values.new_zeros(len(values), likeness.numel())
        found[:, there] = values
    return found.reshape(len(found), *likeness.shape)


@dataclass(frozen=True)
class Terms:
    """Hold averages over all pairs of points, of Cov(f_a², f_b²)/E[f²]² = Σ s_k·ρᵏ/E[f²]².

    Args:
        line: the first term.
        square: the second.
        beyond: all others.
        odd: of these, the odd ones; 0 where lengths are followed and the mean is not 0.
        by_mean: of the line, what the mean of all z explains.
        by_size: of the square, what the mean square of all z explains.
        second: E[f²].
        slope: d log E[f²] / d log Var(z).
        same: E[f²] of each point, over the average.
        spread: all terms together.
        skew: square of the skewness of f over points and draws.
    """

    line: float
    square: float
    beyond: float
    odd: float
    by_mean: float
    by_size: float
    second: float
    slope: float
    same: Tensor
    spread: float
    skew: float

    @classmethod
    def of(cls, wander: Wander, shaping: Shaping, each: bool, centred: bool = False) -> "Terms":
        """Average over the pairs that are followed, and over each point with itself.

        Args:
            wander: of Gaussian z.
            shaping: of f.
            each: take every pair at its own length.
            centred: whether the mean of all points is 0.
        """
        of_point = at_lengths(shaping, wander.same, wander.same, _of_point)
        second, slope, mean, third, _ = (float(part.mean()) for part in of_point)
        if not second > 0:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, wander.same, 0.0, 0.0)
        # What lengths add is there only as far as numbers of one point are skewed likewise.
        plain = squared_skewness(shaping.mean, shaping.second, shaping.third)
        skew = math.sqrt(squared_skewness(mean, second, third) * plain)
        if not each or wander.ends is None:
            return cls._of_one_length(wander, shaping, of_point[0] / second, skew)
        pairs = _Pairs(wander, shaping)
        bent, long = of_point[1] / second, wander.same.clamp_min(SHORTEST)
        steep = of_point[4] / second
        if centred:  # all that goes with z adds up to nothing, but in a sample of pairs
            steep = steep - float((steep * long.sqrt()).mean()) * long.sqrt()
        line, by_mean = pairs.terms(1, steep, long.sqrt())
        square, by_size = pairs.terms(2, math.sqrt(2) * bent, math.sqrt(2) * long)
        beyond = pairs.beyond(shaping) / (second**2 or 1.0)
        odd = pairs.beyond(shaping.odd) / (second**2 or 1.0) if centred else 0.0
        same, spread = of_point[0] / second, line + square + beyond
        slope = slope / second
        return cls(line, square, beyond, odd, by_mean, by_size, second, slope, same, spread, skew)

    @classmethod
    def _of_one_length(cls, wander: Wander, shaping: Shaping, same: Tensor, skew: float) -> "Terms":
        """Take the lengths of pairs for the average one, and follow them by powers."""
        share, slope = shaping.mean_share, shaping.slope
        mean = wander.mean(torch.clone, power=1.0) - share
        whole = wander.mean(torch.square) + wander.noise - share * share - 2 * share * mean
        line = shaping.tilt * mean / (1 - share)
        square = 2 * slope**2 * whole / (1 - share) ** 2
        beyond, odd = (
            wander.mean(partial(each.beyond, noise=wander.noise), shaping.growth)
            for each in (shaping, shaping.odd)
        )
        spread = wander.mean(lambda likeness: shaping.spread(likeness, wander.noise), 2 * slope)
        second = shaping.second
        return cls(line, square, beyond, odd, line, square, second, slope, same, spread, skew)


def growth(series: Shaping, second: Tensor) -> Tensor:
    """Return by how much f is larger at a length than at that of its series."""
    return (second / series.second).sqrt() if series.second else second


def _of_point(series: Shaping, second: Tensor, _: Tensor) -> Tensor:
    """Return E[f²], its slope by log Var(z), E[f], E[f³], and the slope of E[f²] by E[z]."""
    root = growth(series, second)
    return torch.stack([
        second,
        second * series.slope,
        series.mean * root,
        series.third * root**3,
        second * math.sqrt(series.tilt),
    ])  # fmt: skip


class _Pairs:
    """Average over all pairs of points what their correlation, and both lengths, make."""

    def __init__(self, wander: Wander, shaping: Shaping) -> None:
        self.wander, self.long = wander, lengths(wander)
        self.noise = wander.noise / (1 - shaping.mean_share) ** 2
        self.rho = correlations(wander, shaping, {name: self.long[name] for name in wander.shares})

    def terms(self, power: int, of_f: Tensor, of_z: Tensor) -> tuple[float, float]:
        """Average the terms of f² of that power, and what of them those of z explain."""
        whole, size, both = (self.mean(power, each) for each in (of_f, of_z, of_f + of_z))
        crossed = (both - whole - size) / 2
        return whole, max(min(crossed**2 / size, whole), 0.0) if size > 0 else 0.0

    def mean(self, power: int, points: Tensor) -> float:
        """Average ρᵖᵒʷᵉʳ times a number of each of both points."""
        products = of_pairs(self.wander, points)

        def of(name: str) -> Tensor:
            rho = self.rho[name]
            return products[name] * (rho if power == 1 else rho**power + self.noise)

        return self._over_all(of)

    def beyond(self, shaping: Shaping) -> float:
        """Average the terms of Cov(f_a², f_b²) beyond the square, at the mean of both lengths."""

        def put(series: Shaping, second: Tensor, likeness: Tensor) -> Tensor:
            return (second.square() * series.beyond(likeness, self.wander.noise))[None]

        def of(name: str) -> Tensor:
            return at_lengths(shaping, self.long[name], getattr(self.wander, name), put)[0]

        return self._over_all(of)

    def _over_all(self, of: Callable[[str], Tensor]) -> float:
        return sum(share * _told(of(name), name) for name, share in self.wander.shares.items())


def _told(pairs: Tensor, name: str) -> float:
    """Average over pairs of points; of others than those followed, as far as these tell.

    Powers of likeness may cancel in all pairs, and not in some: where the mean of those that are
    followed is within its own error, it says little.
    """
    if name == "same" or len(pairs) < 2:
        return float(pairs.mean())
    each = pairs.reshape(len(pairs), -1).mean(1)
    mean, square = float(each.mean()), float(each.var()) / len(each)
    return mean**3 / (mean**2 + square) if mean else 0.0
