"""How alike windows are, from how alike their positions are: that of all pairs of positions."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from handwave.centring import Centre
from handwave.layouts import Rows
from handwave.neighbourhoods import beside_windows
from handwave.pairs import neighbours
from handwave.pools import Pool, pairs
from handwave.positions import Decay
from handwave.wandering import Wander

# Of what a model says of neighbours beyond others, what it may be off by.
_MODEL_ERROR = 0.25

# What the variance of likeness that a model says is left among windows may be off by, relative.
_EXPECTED_ERROR = 0.5


class Windowed:
    """Average likeness over all pairs of positions, one of each window.

    Args:
        pool: the windows.
        wander: how alike positions are.
    """

    def __init__(self, pool: Pool, wander: Wander) -> None:
        self.pool, self.wander = pool, wander
        self.alike = _Likeness.of(pool, wander)

    @property
    def own(self) -> Tensor:
        """Return how alike two positions of a window are, each with itself included.

        Returns:
            Shape (pairs, *map of windows); pairs are those of `wander`.
        """
        return self.alike.own

    @cached_property
    def left(self) -> float:
        """Return how alike two positions of a window are on average, each with itself included."""
        square = self.pool.total.square()
        left = float((self.own.mean(0) * square).mean() / square.mean())
        return max(left, self._between, self.pool.least)

    @property
    def loose(self) -> float:
        """Return by how much what is left of a second moment may be off, relative.

        Behind other pooling, neighbours are as alike as a model of their likeness has it, and not
        as alike as these very ones by chance.
        """
        if not self.wander.modelled or self.pool.whole:
            return 0.0
        near, within = float(self.wander.near.mean()), self.wander.within
        gap = (near - float(within.mean())) * _MODEL_ERROR
        # Of 3ᵃ − 1 neighbours, half are others than those of the other half. What is so by chance
        # at one position is so beside it, where windows overlap: a map's average tells.
        followed = 2 * len(neighbours(len(self.pool.sizes))) / (3 ** len(self.pool.sizes) - 1)
        chance = _var(within.flatten(1).mean(1)) / self.pool.inputs / followed
        return float(self.pool.shares[1].mean()) * math.sqrt(gap**2 + chance) / self.left

    def averaged(self) -> Wander:
        """Return the likeness of windows, over that of a window with itself on average."""
        pool, wander, inputs = self.pool, self.wander, self.pool.inputs
        between = inputs * (inputs - 1)
        far, noise = self._of_both("far", between)
        within, _ = self._of_both("within", inputs)
        # What one position has in common beyond any two, its neighbours have as they are alike.
        gap = float(self._size.mean() * (wander.aligned.mean() - wander.far.mean()))
        if pool.whole:  # of a window's positions and another's, some are the same
            aligned = far = far + gap / math.prod(pool.sizes)
        else:
            aligned = self._of_both("aligned", between)[0] - (1 - self._alike) * gap
        same = self._size * self.own
        whole = pool.whole and 1 <= inputs <= len(same) // 2
        same = _of_each(same, inputs) if whole else same
        middle, scale = float(within.mean()), float(self._size.mean())
        return replace(
            wander,
            same=same / same.mean(),
            far=far,
            aligned=aligned,
            near=self._near(within, scale, middle),
            within=within + (scale * self.alike.apart() - middle),
            share=min(wander.share * math.prod(pool.sizes) / pool.total.numel(), 1.0),
            skew=wander.skew * self._kept,
            modelled=pool.total.numel() > 1,
        ).with_noise(scale**2 * noise, self._kept)

    def _near(self, within: Tensor, scale: float, middle: float) -> Tensor:
        """Return how alike neighbouring windows are, of those that have few positions."""
        if self.pool.layout.doubled.few and not self.pool.whole:
            return self._size * beside_windows(self.pool, self.wander)
        return within + (scale * self.alike.beside() - middle)

    @property
    def _size(self) -> Tensor:
        """Return a factor for each window, by which likeness becomes relative."""
        square = self.pool.total.square()
        return square / float(square.mean()) / self.left

    @property
    def _between(self) -> float:
        """Return what inputs share and half of what is a position's own, which nothing cancels."""
        far, within = float(self.wander.far.mean()), float(self.wander.within.mean())
        return far + 0.5 * float(self.pool.alone.mean()) * max(1 - within, 0.0)

    @cached_property
    def _kept(self) -> float:
        """Return what share of noise is left of an average."""
        alone, near = (float(part.mean()) for part in self.pool.shares)
        return self.wander.kept(1 / alone, near / max(1 - alone, 1e-9))

    @property
    def _alike(self) -> float:
        """Return how alike two positions of a window are beyond what all inputs have in common."""
        common = float(self.wander.far.mean())
        return max(self.left - common, 0.0) / max(1 - common, 1e-9)

    @cached_property
    def _common(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what pairs have of the mean over all points: of positions, and of windows."""
        centre = Centre.of_place(self.wander)
        after = replace(centre, own=self.pool.of(centre.own))
        return centre.of_pairs(), after.of_pairs()

    def _of_both(self, name: str, period: int) -> tuple[Tensor, float]:
        """Average a class of pairs over both windows of each pair.

        What a point has in common with all others is averaged over its own window; of the rest,
        which is known for one pair of positions at a time, the other window leaves less.

        Returns:
            The likeness of the windows, and what is left of a variance of the rest.
        """
        before, after = (common[name] for common in self._common)
        rest = getattr(self.wander, name) - before
        once, whole = self.pool.of(rest), _var(rest)
        one = _var(once) / whole if whole else 1.0
        both = self._left_of_noise(one)
        made = self._each(self._size * once, period, min(both / one, 1.0) if one else 1.0)
        return self._size * after[: len(made)] + made, both

    def _left_of_noise(self, one: float) -> float:
        """Return what averages over both windows leave of a variance of likeness.

        Positions p + d and q + e of two windows have a likeness that varies with that of p and q
        as κ(d)·κ(e), κ being how alike positions of one input are; or, beyond that, only if
        d = e: then as much as the average over one window has shown. The more alike positions
        are, the more of what varies goes with both.

        Args:
            one: what averages over one window leave.
        """
        alone, alike = float(self.pool.alone.mean()), self._alike
        beyond = max(one - self._kept, 0.0) / max(1 - alone, 1e-9)
        apart, steady = (
            min(max(each - alone, 0.0) / max(1 - alone, 1e-9), 1.0) for each in (alike, one)
        )
        together = alike**2 + self.pool.together * beyond
        each = (alone + (1 - alone) * math.sqrt(steady)) ** 2
        return min((1 - apart) * together + apart * each, 1.0)

    def _each(self, once: Tensor, period: int, kept: float) -> Tensor:
        """Average over whatever else is in the other window, of which one position was seen."""
        if self.pool.whole and 1 <= period <= len(once) // 2:
            return _of_each(once, period, kept * _var(once))
        return once.mean() + (once - once.mean()) * kept**0.5


@dataclass(frozen=True)
class _Likeness:
    """Hold how alike positions are, averaged over one window; (pairs, *map of windows)."""

    windows: Pool
    same: Tensor
    near: Tensor
    within: Tensor
    decay: Decay

    @classmethod
    def of(cls, windows: Pool, wander: Wander) -> "_Likeness":
        same, within = windows.of(wander.same), windows.of(wander.within)
        # Where a window is the whole map, neighbours are among all the others.
        near = within if windows.whole else windows.of_neighbours(wander.near)
        if wander.ends and not windows.whole:
            near, within = (wander.ends.averaged(each) for each in (near, within))
        return cls(windows, same, near, within, Decay.of(wander, windows.sizes))

    @cached_property
    def own(self) -> Tensor:
        """Average over the pairs of a window; (pairs, *map of windows)."""
        rows = self.windows.rows
        return self._mixed(*self.windows.shares) + self._beyond(rows, rows)

    def of_pairs(self, one: Rows, other: Rows) -> float:
        """Average over the pairs of some windows with some others."""
        alone, near = (part.mean() for part in pairs(one, other))
        return float(self._mixed(alone, near).mean()) + self._beyond(one, other)

    def _mixed(self, alone: Tensor, near: Tensor) -> Tensor:
        """Mix pairs of a position with itself, of neighbours, and of all the others."""
        return alone * self.same + near * self.near + (1 - alone - near) * self.within

    def _beyond(self, one: Rows, other: Rows) -> float:
        """Return by how much the others are more alike than any two positions are."""
        if self.windows.whole:
            return 0.0
        alone, near = (float(part.mean()) for part in pairs(one, other))
        others = self.decay.of_pairs(one, other) - alone
        others -= near * self.decay.of_neighbours(len(one))
        return others - (1 - alone - near) * float(self.within.mean())

    def beside(self) -> float:
        """Average over the pairs of two neighbouring windows."""
        rows, found = self.windows.rows, []
        for axis in [axis for axis, each in enumerate(rows) if len(each) > 1]:
            one, other = list(rows), list(rows)
            one[axis], other[axis] = rows[axis][:-1], rows[axis][1:]
            found.append(self.of_pairs(one, other))
        return sum(found) / len(found) if found else float(self.within.mean())

    def apart(self) -> float:
        """Average over the pairs of any two windows, which may overlap."""
        rows, count = self.windows.rows, self.windows.total.numel()
        if count == 1:
            return float(self.within.mean())
        even = [each.mean(0, keepdim=True) for each in rows]
        return (self.of_pairs(even, even) - float(self.own.mean()) / count) / (1 - 1 / count)


def _var(likeness: Tensor) -> float:
    return float(likeness.var(correction=0))


def _of_each(once: Tensor, period: int, expected: float | None = None) -> Tensor:
    """Average over the shifts at which each pair of inputs is followed; pairs come in turns.

    What is left of the differences among shifts is taken out of those among pairs: by what these
    say themselves, and by what is expected, each as far as it is known.

    Args:
        once: likeness of pairs at one shift.
        period: how many pairs there are.
        expected: variance among pairs, if all shifts were followed; None where nobody knows.
    """
    turns = len(once) // period
    table = once[: turns * period].reshape(turns, period, *once.shape[1:])
    means = table.mean(0)
    between, noise = float(means.var(0, correction=0).mean()), float(table.var(0).mean()) / turns
    if not between:
        return means
    told, unsure = max(between - noise, 0.0), between * math.sqrt(2 / period)
    if expected is not None:
        weight = unsure**2 / (unsure**2 + (_EXPECTED_ERROR * expected) ** 2)
        told += weight * (expected - told)
    kept = min(told / between, 1.0)
    return once.mean() + (means - means.mean()) * kept**0.5
