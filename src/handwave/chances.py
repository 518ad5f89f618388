"""What is left to chance of a unit's mean square, once its weights' own moments are known."""

import math
from dataclasses import dataclass

import torch

from handwave.lengths import Terms
from handwave.shaping import Shaping
from handwave.wandering import Wander

# Of what a settled size explains, two numbers from a sample of pairs do not cancel better.
_UNKNOWN_AT_LEAST = 0.03

# Where sizes are settled, odd terms fall as this power of 1 + settled: from 1, of points that are
# spread evenly, to 2; measured on pixels, smooth images and strokes, to 15 % of a band.
_LESS_ODD = 1.5

# Mean square likeness up to which its third power is followed: beyond, too few numbers make it.
_MOST_SKEWED = 0.2


@dataclass(frozen=True)
class Told:
    """Hold what is known beforehand of one unit.

    Args:
        square: of the relative variance 2·mean(likeness²) of the mean square of z.
        mean: of the mean likeness, which the mean of z makes.
        settled: relative variance that a norm over the batch has taken from the mean square.
        size_left: what a norm over units has left of the square of that variance.
        explained: where sizes are settled, the square of what the weights' own mean tells of
            the mean of all points times their lengths.
        uneven: tr(M⁴)/tr(M²)³ of the points' second moments M, at least 1.
    """

    square: float
    mean: float
    settled: float = 0.0
    size_left: float = 1.0
    explained: float = 0.0
    uneven: float = 1.0


def left_open(seen: Wander, shaping: Shaping, terms: Terms, told: Told) -> float:
    """Return what is not known beforehand of the relative variance of one unit's f(z)².

    Its line and its square in z come from the mean and the mean square of z, of which some is
    known. Likeness is share + (1 − share)·ρ, share that of the mean of z, which wanders nowhere.

    Args:
        seen: likeness of the points as the units see them.
        shaping: what f does to it.
        terms: what that makes of all pairs.
        told: what is known.
    """
    if shaping.together:
        return shaping.together.beyond
    share = shaping.mean_share
    mean = seen.mean(torch.clone, power=1.0) - share
    known_mean = max(told.mean - share, 0.0)
    whole = seen.mean(torch.square) + seen.noise - share * share - 2 * share * mean
    known = max(told.square / 2 - share * share - 2 * share * known_mean, 0.0)
    square = terms.square - terms.by_size * (min(known / whole, 1.0) if whole > 0 else 1.0)
    even = terms.beyond - terms.odd
    taken = 1.0 if told.settled else 1 - told.size_left
    if taken:
        even *= max(1 - taken * _of_size(seen, told.uneven), _UNKNOWN_AT_LEAST)
    if told.settled:
        odd = _odd_of_settled(seen, shaping, terms, told)
    else:
        line = terms.line - terms.by_mean * (min(known_mean / mean, 1.0) if mean > 0 else 1.0)
        odd = max(line, 0.0) + terms.odd
    return odd + max(square, 0.0) + even


def _odd_of_settled(seen: Wander, shaping: Shaping, terms: Terms, told: Told) -> float:
    """Return what is not known of the odd terms, the line among them, where sizes are settled."""
    line = terms.line - told.explained * shaping.tilt * _straight(2 / told.settled)
    odd = max(max(line, 0.0) + terms.odd, 0.0) / (1 + told.settled) ** _LESS_ODD
    return odd + _of_skew(seen, shaping, told.settled)


def _straight(n: float) -> float:
    """Return what a coordinate tells of it over the length of all n, squared: (E χ)²/n."""
    return 2 / n * math.exp(2 * (math.lgamma((n + 1) / 2) - math.lgamma(n / 2)))


def skew_kept(seen: Wander) -> float:
    """Return what sums keep of the squared skewness of their numbers: 15/n² of n independent ones.

    Args:
        seen: likeness of the points, whose mean square is 1/n.
    """
    return min(15 * max(seen.mean(torch.square) - seen.share, 0.0) ** 2, 1.0)


def _of_skew(seen: Wander, shaping: Shaping, settled: float) -> float:
    """Return what the third powers of likeness and of lengths add where numbers are skewed.

    Likeness by chance is meant, which the noise tells: pairs have all other in them.

    E[(mean z³)²] = 6·mean(ρ³) + 9·mean(ρ·l_a·l_b), l the points' square lengths. Of points of
    n independent skewed numbers, whose likeness has variance v = 1/n, these are 6·skew·v² and
    9·skew·v². A direction in n dimensions has less of both, as its cubes vary less than those
    of Gaussian numbers.
    """
    square = min(seen.noise, _MOST_SKEWED)
    n = 2 / settled
    left = (15 * n * n / ((n + 2) * (n + 4)) - 18 * n / (n + 2) + 9) / 6
    third = float(shaping.squares[3]) / shaping.second_squared
    return left * (1 + 1.5 * left) * seen.skew * square**2 * third


def _of_size(seen: Wander, uneven: float) -> float:
    """Return what share of the even terms beyond the square the size explains, where all have one.

    Of M the points' second moments, the fourth ones of Gaussian points are 3·sym(M⊗M): then
    E[z⁴] is 3·size² in every unit, and nothing is left of 3R² + 6·tr(M⁴) = E[likeness⁴].
    With R = tr(M²) = 1/n, tr(M⁴) is at least R³: at least 3/(n·(n + 2)) is explained, all that
    points have which are spread evenly over n dimensions. They stand in M as their lengths have it.
    """
    alike = seen.mean(torch.square)
    longer = float(seen.same.square().mean())
    gaussian = 3 * alike**2 * (2 * longer - 1) / (1 + 2 * alike)
    gaussian *= (1 + 2 * alike * uneven) / (1 + 2 * alike)
    there = seen.mean(lambda likeness: likeness**4, power=4.0)
    return min(max(gaussian, 0.0) / there, 1.0) if there > 0 else 0.0
