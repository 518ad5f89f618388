"""Read from a weight how it was made, and what that recipe overlooks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handwave.moments import Moments
from handwave.weights import by_unit, fans

# The mean square of n entries is off by √(c/n), relative: c is E[w⁴]/E[w²]² - 1.
_NORMAL, _UNIFORM = 2.0, 0.8

# Rounding to bfloat16, twice.
_HALF = 4e-3

# So many of those are forgiven what is right, and so many allowed what is blamed; and rounding.
_SIGMAS, _BLAMED, _ROUNDING = 6.0, 4.0, 2e-3

# Where numbers an octave off match within more than this, half of all scales match some recipe.
_SHARP = 0.21

# Where it is more than this, ever so small weights would do.
_BROAD = 0.75

# The largest of n uniform entries is below 1 - t with probability exp(-t·n): here 1e-6.
_SHORT = 14.0

# Beyond this factor for one layer, up or down, a recipe is worth a word.
_WORTH_A_WORD = 1.6

# Of a second moment, what a ReLU keeps.
_OF_RELU = 0.5

# Of each of these projections, the gradient comes through the other.
_PAIRS = ({"q", "k"}, {"v", "out_proj"})

# Entries of memory that nobody wrote into: beyond all others and beyond what a weight may be, or
# all beyond the normal numbers. Weights that decayed are far below the others, but not absurd.
_ABSURD, _LARGE, _TINY = 1e8, 1e3, 1e-30


@dataclass(frozen=True)
class Cause:
    """Hold why a layer is off.

    Args:
        name: one of the causes that an audit knows, or several that give the same number.
        sentence: what is wrong and what would be right, in one plain sentence.
        lesson: that explains it.
        grave: whether it would stop the training.
        verdict: what it is by itself, where the signal shows nothing.
    """

    name: str
    sentence: str
    lesson: str
    grave: bool = False
    verdict: str = "off target"


@dataclass(frozen=True)
class Place:
    """Say where a weight stands.

    Args:
        kept: E[f²]/E[z²] of the activation in front of it, at size 1; 1 without one.
        lossy: whether that activation loses as much of a small signal.
        last: whether nothing that sums comes behind it.
        rescued: whether a normalization comes directly behind it.
        steady: whether its output has the size that its chain had.
        split: whether what it puts out may be three projections.
    """

    kept: float = 1.0
    lossy: bool = False
    last: bool = False
    rescued: bool = False
    steady: bool = False
    split: bool = False


def weights(module: Any) -> dict[str, Tensor]:
    """Return what products are summed with, each of several by the name of what it makes."""
    if isinstance(module, nn.MultiheadAttention):
        one = module.in_proj_weight
        apart = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        three = apart if one is None else one.chunk(3)
        names = ("q", "k", "v", "out_proj")
        found = dict(zip(names, (*three, module.out_proj.weight), strict=True))
    else:
        found = {"": getattr(module, "weight", None)}
    return {name: each.detach() for name, each in found.items() if isinstance(each, Tensor)}


def flaw(module: nn.Module) -> Cause | None:
    """Find what is wrong with a weight whatever it is used for."""
    for name, weight in _matrices(module):
        if weight.is_floating_point() and weight.numel() and _is_unwritten(weight):
            return Cause(
                "never initialised",
                f"its {name} holds {_oddest(weight)} beside ordinary numbers or zeros, as memory "
                "does that nobody wrote into: draw it",
                "12, defaults",
                grave=True,
                verdict="never initialised",
            )
    return None


def symmetry(module: Any, wanted: bool = False) -> Cause | None:
    """Find units that are the same, and so will stay the same.

    Args:
        module: any layer.
        wanted: whether zeros may stand there on purpose.
    """
    units = {name: by_unit(module, w) for name, w in weights(module).items() if w.dim() > 1}
    units = {name: each for name, each in units.items() if each.numel()}
    return _zeros(units, wanted) or _constant(units) or _copied(units)


def _zeros(units: dict[str, Tensor], wanted: bool) -> Cause | None:
    zero = [name for name, each in units.items() if not each.any()]
    if not zero or zero in (["q"], ["k"]):  # keys teach queries of zero, as is sometimes wanted
        return None
    idle = any(pair <= set(zero) for pair in _PAIRS)
    what = "what it attends to" if zero == ["q", "k"] else "what comes out"
    text = f"its {listed(zero)}weights are all zero"
    if wanted and not idle:
        text += ", as is often wanted in a last layer or at a branch's end"
        return Cause("all zeros", text, "14, training", False, "symmetric")
    text += f": {what} does not depend on what goes in"
    return Cause("all zeros", text, "14, training", True, "symmetric")


def _constant(units: dict[str, Tensor]) -> Cause | None:
    found = [
        name
        for name, each in units.items()
        if each.shape[1] > 1 and each.any() and bool((each == each.flatten()[0]).all())
    ]
    if not found:
        return None
    text = (
        f"its {listed(found)}weights are all the same constant: every unit computes and learns "
        "the same"
    )
    return Cause("constant", text, "14, training", True, "symmetric")


def _copied(units: dict[str, Tensor]) -> Cause | None:
    for name, each in units.items():
        copied, total = sum(map(_twins, each)), each.shape[0] * each.shape[1]
        if copied:
            text = (
                f"{copied} of its {total} {listed([name])}units have the weights of another "
                "unit, and will learn the same"
            )
            return Cause("weights copied", text, "14, training", 2 * copied >= total, "symmetric")
    return None


def listed(names: Iterable[str]) -> str:
    """Write which of several weights are meant, with a space behind; of one alone nothing."""
    together = ", ".join(names)
    return together and f"{together} "


def recipe(module: Any, weight: Moments, place: Place) -> Cause | None:
    """Find the recipe behind a variance that does not suit the place where the weight stands."""
    fan_in, fan_out = fans(module)
    size = weight.second_moment
    growth = size * fan_in * place.kept
    if not 0 < growth < math.inf or off_centre(weight):
        return None
    default = _default(module, weight, place.kept)
    if default or place.steady or max(growth, 1 / growth) < _WORTH_A_WORD:
        return default
    if place.split and (three := packed(weight, fan_in, fan_out / fan_in)):
        return three
    if not place.rescued and not _near(size, _sound(fan_in, fan_out, place), weight.count):
        return _misfit(module, weight, place)
    return None


def off_centre(weight: Moments) -> bool:
    """Tell a mean that no draw around zero leaves.

    Of n normal weights with the mean m and the variance v, m²/v leaves c behind with about the
    probability (1 + c)^(-(n - 1)/2): for many that is a deviation of √(n·c).
    """
    if weight.count < 2:
        return False
    return weight.mean * weight.mean > weight.var * math.expm1(_SIGMAS**2 / (weight.count - 1))


def packed(weight: Moments, fan_in: float, blocks: float) -> Cause | None:
    """Find Xavier's variance counted over three projections in one weight."""
    if blocks != 3 or not _matches(weight, [0.5 / fan_in]):
        return None
    text = (
        "its three projections stand in one weight, and Xavier's rule counted the outputs of all: "
        "q, k and v have half the variance that 1/fan_in gives"
    )
    return Cause("packed q/k/v", text, "11, layers")


def _sound(fan_in: float, fan_out: float, place: Place) -> list[float]:
    """List what may stand there on purpose: He in front, Xavier where nothing is lost, small."""
    sound = [2 / fan_in, 1 / (place.kept * fan_in), 0.02**2]
    if not place.lossy or place.last:
        sound += [1 / fan_in, 2 / (fan_in + fan_out)]
    return sound


def _misfit(module: Any, weight: Moments, place: Place) -> Cause | None:
    """Name every recipe that gives this variance."""
    fan_in, fan_out = fans(module)
    if _matches(weight, [1.0]):
        text = f"its weights have the variance 1: one output sums {fan_in:.4g} products of them"
        return Cause("variance 1", text + ", so divide them by the root of that", "5, square-root")
    by_torch = fans(module.weight)
    found: dict[str, str] = {}
    if _matches(weight, [1 / fan_in, 2 / (fan_in + fan_out)]) and place.lossy:
        found["gain missing"] = (
            f"the activation in front of it keeps {place.kept:.2f} of the second moment, and its "
            "weights do not make up for it"
        )
    scales = (1.0, 2.0, 1 / place.kept)
    groups = getattr(module, "groups", 1)
    grouped = groups > 1
    # The farther off a number is, the fewer others are as far: few weights will do.
    if grouped and _matches(weight, [s / by_torch.fan_out for s in scales], math.log2(groups)):
        found["depthwise fan"] = (
            f"its variance was divided by the outputs of all groups, {by_torch.fan_out:.0f}, where "
            f"one input takes part in {fan_out:.4g}"
        )
    wrong = {fan for fan in (fan_out, *by_torch) if not _near(fan, [fan_in], 10**9)}
    if not grouped and _matches(weight, [s / fan for s in scales for fan in wrong]):
        found["transposed fan"] = (
            f"its variance was divided by the wrong fan: one output sums {fan_in:.4g} products"
        )
    if not found:
        return None
    if _matches(weight, [1 / (3 * by_torch.fan_in)]):
        found["default init"] = "its variance is that of torch's default, 1/(3 fan_in)"
    return Cause(" or ".join(found), "; or ".join(found.values()), "11, layers")


def _default(module: Any, weight: Moments, kept: float) -> Cause | None:
    """Know torch's own draw, uniform within ±1/√fan_in; kept is what the activation in front is."""
    by_torch = fans(module.weight).fan_in
    bound = float(module.weight.detach().abs().max()) * math.sqrt(by_torch)
    slack = _slack(weight.count, _SIGMAS, _UNIFORM)
    # The largest entry tells a default that was scaled afterwards, and most that are not uniform.
    if not 1 - _SHORT / weight.count - _HALF <= bound <= 1 + _HALF:
        return None
    if not abs(3 * by_torch * weight.second_moment - 1) <= slack <= _BROAD:
        return None
    text = (
        "its weights are torch's default, of variance 1/(3 fan_in): a third of what keeps a signal"
    )
    if abs(kept - _OF_RELU) < 0.1 * _OF_RELU:
        text += ", a sixth of what keeps it behind a ReLU"
    return Cause("default init", text, "12, defaults")


def _near(size: float, numbers: list[float], count: int) -> bool:
    """Tell whether a mean square of count entries may be one of some numbers."""
    return _within(size, numbers, _slack(count, _SIGMAS, _NORMAL))


def _matches(weight: Moments, numbers: list[float], octaves: float = 1.0) -> bool:
    """Tell whether a mean square is one of numbers some octaves off, as few others would be."""
    slack = _slack(weight.count, _BLAMED, _NORMAL)
    return slack <= _SHARP * octaves and _within(weight.second_moment, numbers, slack)


def _slack(count: int, sigmas: float, spread: float) -> float:
    return sigmas * math.sqrt(spread / max(count, 1)) + _ROUNDING


def _within(size: float, numbers: list[float], slack: float) -> bool:
    return any(abs(size / number - 1) <= slack for number in numbers if number > 0)


def _matrices(module: nn.Module) -> list[tuple[str, Tensor]]:
    with torch.no_grad():
        inner = isinstance(module, nn.MultiheadAttention)  # has out_proj in a module of its own
        found = [(name, p.detach()) for name, p in module.named_parameters(recurse=inner)]
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and "weight" not in dict(found):
            found.append(("weight", weight.detach()))
    return found


def _is_unwritten(weight: Tensor) -> bool:
    if not bool(weight.isfinite().all()):
        return True
    size = weight.double().abs()
    written = size[size > 0]
    if not len(written):
        return False
    largest = float(written.max())
    beyond_others = largest > max(_LARGE, _ABSURD * float(written.median()))
    return largest < _TINY or largest > _ABSURD or beyond_others


def _oddest(weight: Tensor) -> str:
    if bool(weight.isnan().any()):
        return "NaN"
    return f"{float(weight.abs().max()):.3g}"


def _twins(units: Tensor) -> int:
    """Count the units that equal another; what is zero throughout was set so."""
    units = units[units.any(dim=1)]
    if units.shape[1] < 2 or len(units) < 2:
        return 0
    _, counts = torch.unique(units, dim=0, return_counts=True)
    return int(counts[counts > 1].sum())
