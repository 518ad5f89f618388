"""What a layer leaves of a gradient, where that depends on the layers that follow it."""

from collections.abc import Sequence

from torch import Tensor, nn

from handwave.activations import activation_moments
from handwave.laws import slope_of
from handwave.norms import over_batch
from handwave.pools import AVERAGES, Pool
from handwave.running import own_class
from handwave.signals import Signal
from handwave.sums import is_sum
from handwave.weights import fans


def kept(layer: nn.Module, after: Signal | None, following: Sequence[nn.Module]) -> float:
    """Return what is left of a layer's input gradient, over what it would be on its own.

    Args:
        layer: any layer.
        after: the signal that it hands on.
        following: the layers that follow it in its chain, in order.
    """
    following = [each for each in following if own_class(each) is not nn.Identity]
    if not following:
        return 1.0
    if is_sum(layer):
        return _before_norm(layer, following[0])
    return 1.0 if after is None or not after.taken else _by_norm(layer, after, following)


def _before_norm(layer: nn.Module, following: nn.Module) -> float:
    """Return what is left behind a sum if a norm over the batch follows at once.

    A unit of large weights has a large variance, by which the norm divides its gradient: of
    E[|w|²/var], E[|w|²]·E[1/var] leaves out −Cov(|w|², var) = −2/fan_in, relative.
    """
    return 1 - 2 / max(fans(layer).fan_in, 4.0) if over_batch(following) else 1.0


def _by_norm(layer: nn.Module, after: Signal, following: Sequence[nn.Module]) -> float:
    """Return what is left behind a norm, whose gradient came through f.

    Of a gradient g·f'(z), the norm takes out what goes along the normalized z,
    E[z²·f'(z)²]/E[f'(z)²], where its law says 1; and its mean over the batch. If a sum and then
    another norm over the batch follow, g itself has none, and 1 − E[f'(z)]²/E[f'(z)²] is left
    of that. If an average over windows follows, all of its positions have the same g, and what
    f'(z) and z·f'(z) are on average adds up over them.
    """
    slope, law = slope_of(following[0]), after.moments
    rest = following[1:] if slope else following
    slopes = activation_moments(slope or _one, law)
    if not slopes.second_moment or not law.var:
        return 1.0
    along = activation_moments(lambda z: (slope or _one)(z) * (z - law.mean) / law.std, law)
    square = slopes.second_moment
    less = 1 - along.second_moment / square
    if over_batch(layer) and len(rest) > 1 and is_sum(rest[0]) and over_batch(rest[1]):
        less += slopes.mean**2 / square
    mean = 0.0 if own_class(layer) is nn.RMSNorm else slopes.mean**2
    less -= _with_the_same(rest, after) * (mean + along.mean**2) / square
    return max(1 + after.taken * less, 0.0)


def _with_the_same(following: Sequence[nn.Module], signal: Signal) -> float:
    """Return how many other positions an average gives the same gradient as each."""
    if not following or not isinstance(following[0], AVERAGES) or not signal.map:
        return 0.0
    try:
        return 1 / float(Pool(following[0], signal.map, 1).alone.mean()) - 1
    except RuntimeError:  # said when the layer's own turn comes
        return 0.0


def _one(z: Tensor) -> Tensor:
    return z * 0 + 1
