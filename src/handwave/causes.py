"""Tell why a layer is off, as far as its weights, its input and its place tell."""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from handwave.activations import activation_moments
from handwave.flows import Flow
from handwave.moments import Moments
from handwave.nodes import Facts, Node
from handwave.recipes import (
    Cause,
    Place,
    flaw,
    listed,
    off_centre,
    packed,
    recipe,
    symmetry,
    weights,
)
from handwave.sums import bias_moments

# Shares of a second moment from which a bias, or a mean, is worth a word.
_BIAS, _MEAN = 0.5, 0.5

# Of a second moment, what differs between inputs by rounding alone.
_ROUNDING = 1e-12

# Nearer than this to 1 a layer's second moment is only because somebody saw to it.
_MEASURED = 5e-4

# Of a second moment, what an activation keeps that loses much at every layer; of a small one too,
# whereas Tanh and its like keep nearly all of that, so that what is left stays.
_LOSSY, _SMALL = 0.75, 1e-4

# A layer whose weights change a second moment by less than this factor, up or down, keeps it.
_STEADY = 1.3

OF_INPUT = "non-zero-mean input"

# Under these names q, k and v stand in one weight.
_PACKED = re.compile(r"qkv|c_attn|in_proj|query_key_value", re.IGNORECASE)


def causes(flow: Flow) -> dict[int, Cause]:
    """Find one cause a layer, the first in the order in which one hides another."""
    copies, found = _copies(flow), dict[int, Cause]()
    lost: set[int] = set()  # what makes nothing of what enters, and where nothing can be told
    if any(node.signal.nonfinite for node in flow):
        lost = set(flow.nodes)
    for node in flow:
        unclear = bool(lost & {node.number, *flow.ancestors(node.number)})
        weights = _of_weights(flow, node, unclear)
        cause = weights or copies.get(node.number) or _of_place(flow, node)
        if cause:
            found[node.number] = cause
        if cause and cause.grave:
            lost.add(node.number)
    return found


def _of_weights(flow: Flow, node: Node, unclear: bool) -> Cause | None:
    """Look at the weights alone; whether zeros are wanted may not be clear behind other faults."""
    if node.module is None:
        return None
    summed = node.multiplies or node.attends
    return flaw(node.module) or (_of_symmetry(flow, node, unclear) if summed else None)


def _of_place(flow: Flow, node: Node) -> Cause | None:
    """Look at the weights' size where they stand, and at what enters."""
    if node.attends:
        return _of_bias(node) or _of_projections(node.module)
    if not node.multiplies:
        return None
    # A small bias, as torch's own, makes much of an output only where the signal has been lost.
    bias = _of_bias(node)
    large = bias if node.large_bias else None
    return _of_mean(node) or _of_input(flow, node) or large or _of_recipe(flow, node) or bias


def _of_projections(attention: Any) -> Cause | None:
    """Look at the projections that attention keeps in one weight."""
    if attention.in_proj_weight is None:
        return None
    return packed(Moments.of(attention.in_proj_weight), float(attention.embed_dim), 3.0)


def _of_symmetry(flow: Flow, node: Node, unclear: bool) -> Cause | None:
    """Find equal units, zeros among them where these are not wanted."""
    found = symmetry(node.module)
    zeros = found is not None and found.name == "all zeros"
    wanted = zeros and (unclear or (_comes_past(flow, node) and not _is_cut_off(flow, node)))
    return symmetry(node.module, wanted=True) if wanted else found


def _comes_past(flow: Flow, node: Node) -> bool:
    """Tell a last layer, or one that the signal comes past: beside a branch, a gate."""
    behind = [each.facts for each in flow.behind(node, through_sums=True)]
    past = not behind or any(facts and _differs(facts) for facts in behind)
    if behind and flow.noisy(node):
        past = past and flow.leads_around(node)
    return past or any(_varies(flow, part) for part in flow.beside(node))


def _varies(flow: Flow, part: frozenset[int]) -> bool:
    """Tell whether one part of a sum is not the same for all inputs."""
    rows = [node.row for node in flow.layers(part)]
    spreads = [(row.spread, row.signal) for row in rows if row]
    return not part or any(
        (signal.var if spread is None else spread) > _ROUNDING * signal.second_moment
        for spread, signal in spreads
    )


def _is_cut_off(flow: Flow, node: Node) -> bool:
    """Tell a layer that no gradient reaches, and not because of zeros behind it that will learn."""
    if node.row is None or node.row.grad is None or node.row.grad.rms:
        return False
    after = (n for n in flow.descendants(node) if n.multiplies and _is_zero(n))
    return not any(n.facts and _differs(n.facts) for n in after)


def _is_zero(node: Node) -> bool:
    weight = getattr(node.module, "weight", None)
    return weight is not None and not bool(weight.any())


def _differs(facts: Facts) -> bool:
    """Tell whether what enters a layer is not the same for all inputs."""
    return facts.entering is not None and facts.apart > _ROUNDING * facts.entering.second_moment


def _of_recipe(flow: Flow, node: Node) -> Cause | None:
    row, behind = node.row, flow.behind(node)
    if row is None or row.weight is None or _scaled_by_data(node):
        return None
    kept, lossy = _activation(flow, node)
    steady, split = _steady(flow, node), _split(flow, node)
    place = Place(kept, lossy, not behind, flow.rescued(node), steady, split)
    return recipe(node.module, row.weight, place)


def _steady(flow: Flow, node: Node) -> bool:
    """Tell a layer that does no harm, whatever its variance is: pooling may stand in front."""
    own = node.signal.second_moment
    bias = bias_moments(node.module).second_moment if node.module else 0.0
    if not math.isfinite(own) or bias > _BIAS * own:
        return False  # it is the bias that keeps the size
    facts, before = node.facts, flow.before(node)
    if not before and facts and facts.entering:
        had = facts.entering.second_moment
    else:
        had = sum(n.signal.second_moment for n in before) / max(len(before), 1)
    return had < _STEADY * (own - bias) < _STEADY**2 * had


def _scaled_by_data(node: Node) -> bool:
    """Tell a weight that `repair_` or LSUV scaled: no recipe made it, whatever its variance is."""
    return abs(node.signal.second_moment - 1) < _MEASURED


def _split(flow: Flow, node: Node) -> bool:
    """Tell three projections from one wide layer: what comes behind takes a third of it."""
    if node.row is None:
        return False
    takers = [n.row for n in flow.behind(node) if n.multiplies and n.row]
    thirds = bool(takers) and all(row.fan_in == node.row.fan_in for row in takers)
    return thirds or bool(_PACKED.search(node.row.name.rpartition(".")[2]))


def _activation(flow: Flow, node: Node) -> tuple[float, bool]:
    """Return what the activation in front keeps, and whether that is so at every layer.

    At size 1, which recipes are made for: a fault in front may have left any other.
    """
    before = flow.activation_before(node)
    if before is None or before.module is None:
        return 1.0, False
    try:
        kept = activation_moments(before.module, Moments(0.0, 1.0)).second_moment
        small = activation_moments(before.module, Moments(0.0, _SMALL)).second_moment / _SMALL
    except (TypeError, ValueError):
        return _measured(before), False
    return (kept, max(kept, small) < _LOSSY) if kept > 0 else (1.0, False)


def _measured(before: Node) -> float:
    """Return what pooling and its like kept of what entered."""
    facts, left = before.facts, before.signal.second_moment
    entering = facts.entering.second_moment if facts and facts.entering else 0.0
    return left / entering if 0 < entering < math.inf and 0 < left < math.inf else 1.0


def _of_mean(node: Node) -> Cause | None:
    """Look at the mean of the weights, where it is more than chance and makes much."""
    row, facts = node.row, node.facts
    if row is None or row.weight is None or facts is None or facts.expected is None:
        return None
    share = facts.expected.common
    if not share > _MEAN or not off_centre(row.weight):
        return None
    text = (
        f"its weights have the mean {row.weight.mean:.3g}, and that makes {share:.0%} of its "
        "output: draw them around zero"
    )
    return Cause("non-zero-mean weights", text, "2, dot-product")


def _of_input(flow: Flow, node: Node) -> Cause | None:
    """Look at the mean of what comes from outside."""
    facts = node.facts
    if facts is None or facts.entering is None or not flow.from_outside(node):
        return None
    entering = facts.entering
    if not entering.mean**2 > _MEAN * entering.second_moment:
        return None
    text = (
        f"what enters has the mean {entering.mean:.3g} beside a standard deviation of "
        f"{entering.std:.3g}: all inputs look alike; subtract the mean"
    )
    return Cause(OF_INPUT, text, "2, dot-product")


def _of_bias(node: Node) -> Cause | None:
    if node.module is None:
        return None
    bias, signal = _bias(node.module), node.signal
    if not bias.second_moment > _BIAS * signal.second_moment:
        return None
    share = min(bias.second_moment / signal.second_moment, 1.0)
    text = f"its bias makes {share:.0%} of its output, the same for every input: begin at zero"
    return Cause("bias noise", text, "12, defaults")


def _bias(module: Any) -> Moments:
    """Return the moments of what a layer adds to its output whatever goes in.

    Attention adds W·b to it, W the weight of its out_proj and b the bias of v: what it attends
    with adds up to 1.
    """
    if not isinstance(module, nn.MultiheadAttention):
        return bias_moments(module)
    extra = module.bias_k is not None or module.add_zero_attn  # of the 1, these take a part
    if module.in_proj_bias is None or extra:
        return Moments(0.0, 0.0)
    out = module.out_proj
    with torch.no_grad():
        return Moments.of(linear(module.in_proj_bias.chunk(3)[2], out.weight, out.bias))


def _copies(flow: Flow) -> dict[int, Cause]:
    """Find layers with the same weights that are not tied."""
    first: dict[Any, tuple[Node, Tensor]] = {}
    found: dict[int, Cause] = {}
    for node in flow:
        same = _met_before(node, first) if node.multiplies or node.attends else {}
        if same:
            text = (
                f"its {listed(same)}weights are those of {same.popitem()[1]}, and not tied to "
                "them: draw anew"
            )
            found[node.number] = Cause("weights copied", text, "14, training")
    return found


def _met_before(node: Node, first: dict[Any, tuple[Node, Tensor]]) -> dict[str, str]:
    """Return which weights of a layer were met in another, with the name of that.

    Args:
        node: a layer.
        first: the first to have each weight, by what tells weights apart at little cost.
    """
    same = {}
    for name, weight in weights(node.module).items():
        key = (tuple(weight.shape), weight.device, float(weight.sum(dtype=torch.float64)))
        other, theirs = first.setdefault(key, (node, weight))
        if node.module is not other.module and other.row and _is_copy(weight, theirs):
            same[name] = other.row.name
    return same


def _is_copy(weight: Tensor, other: Tensor) -> bool:
    """Tell equal numbers in two places; one constant in two is no copy."""
    tied = weight.data_ptr() == other.data_ptr()
    constant = not weight.numel() or bool((weight == weight.flatten()[0]).all())
    return not tied and not constant and bool((weight == other).all())
