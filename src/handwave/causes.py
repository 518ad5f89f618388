"""Tell why a layer is off, as far as its weights, its input and its place tell."""

import math
from dataclasses import replace
from typing import Any

from torch import nn

from handwave.activations import activation_moments
from handwave.flows import Flow, Node
from handwave.moments import Moments
from handwave.recipes import Cause, Place, flaw, packed, recipe, symmetry
from handwave.sums import bias_moments

# Shares of a second moment from which a bias, or a mean, is worth a word.
_BIAS, _MEAN = 0.5, 0.5

# Nearer than this two layers put out the same second moment only because somebody saw to it.
_MEASURED = 5e-4

# Of a second moment, what an activation keeps that loses much at every layer.
_LOSSY = 0.75


def causes(flow: Flow) -> dict[int, Cause]:
    """Find one cause a layer, the first in the order in which one hides another."""
    copies = _copies(flow)
    found = {}
    for node in flow:
        cause = _of_weights(flow, node) or copies.get(node.number) or _of_place(flow, node)
        if cause:
            found[node.number] = cause
    return found


def _of_weights(flow: Flow, node: Node) -> Cause | None:
    """Look at the weights alone."""
    if node.module is None:
        return None
    return flaw(node.module) or (_of_symmetry(flow, node) if node.multiplies else None)


def _of_place(flow: Flow, node: Node) -> Cause | None:
    """Look at the weights' size where they stand, and at what enters."""
    if not node.multiplies:
        return _of_attention(node.module)
    return _of_recipe(flow, node) or _of_means(flow, node) or _of_bias(node)


def _of_attention(module: nn.Module | None) -> Cause | None:
    """Look at the projections that attention keeps in one weight."""
    if not isinstance(module, nn.MultiheadAttention) or module.in_proj_weight is None:
        return None
    return packed(Moments.of(module.in_proj_weight), float(module.embed_dim), 3.0)


def _of_symmetry(flow: Flow, node: Node) -> Cause | None:
    """Zero is wanted in a last layer, and at the end of a branch."""
    found = symmetry(node.module)
    behind = flow.behind(node)
    wanted = not behind or any(each.parts for each in behind)
    if found and found.name == "all zeros" and wanted:
        text = "its weights are all zero, as is often wanted in a last layer or at a branch's end"
        return replace(found, grave=False, sentence=text)
    return found


def _of_recipe(flow: Flow, node: Node) -> Cause | None:
    row, behind = node.row, flow.behind(node)
    if row is None or row.weight is None:
        return None
    kept, lossy = _activation(flow, node)
    place = Place(kept, lossy, not behind, flow.rescued(node), _scaled_by_data(flow, node))
    return recipe(node.module, row.weight, place)


def _scaled_by_data(flow: Flow, node: Node) -> bool:
    """Tell a weight that `repair_` or LSUV scaled: no recipe made it, whatever its variance is."""
    own = node.signal.second_moment
    beside = [n for n in flow.before(node) + flow.behind(node) if n.multiplies]
    return any(abs(n.signal.second_moment - own) < _MEASURED * own for n in beside)


def _activation(flow: Flow, node: Node) -> tuple[float, bool]:
    """Return what the activation in front keeps, and whether that is so at every layer."""
    before = flow.activation_before(node)
    if before is None or before.facts is None or before.facts.entering is None:
        return 1.0, False
    entering, module = before.facts.entering.second_moment, before.module
    if not 0 < entering < math.inf or module is None:
        return 1.0, False
    try:  # what it keeps of a signal without a mean, whatever this draw had
        kept = activation_moments(module, Moments(0.0, entering)).second_moment / entering
    except (TypeError, ValueError):
        kept = before.signal.second_moment / entering
    # Tanh and its like lose little of a small signal, so that what is left stays.
    settles = isinstance(module, nn.Tanh | nn.Softsign | nn.ELU | nn.SELU | nn.Hardtanh)
    settles = settles and not isinstance(module, nn.ReLU6)
    return (kept, kept < _LOSSY and not settles) if kept > 0 else (1.0, False)


def _of_means(flow: Flow, node: Node) -> Cause | None:
    """Look at the mean of the weights, and of what comes from outside."""
    row, facts = node.row, node.facts
    if row is None or facts is None or facts.entering is None or row.weight is None:
        return None
    entering, share = facts.entering, facts.expected.common if facts.expected else 0.0
    if share > _MEAN:
        text = (
            f"its weights have the mean {row.weight.mean:.3g}, and that makes {share:.0%} of its "
            "output: draw them around zero"
        )
        return Cause("non-zero-mean weights", text, "2, dot-product")
    if not facts.sources and entering.mean**2 > _MEAN * entering.second_moment:
        text = (
            f"what enters has the mean {entering.mean:.3g} beside a standard deviation of "
            f"{entering.std:.3g}: all inputs look alike; subtract the mean"
        )
        return Cause("non-zero-mean input", text, "2, dot-product")
    return None


def _of_bias(node: Node) -> Cause | None:
    if node.module is None:
        return None
    bias, signal = bias_moments(node.module), node.signal
    if not bias.second_moment > _BIAS * signal.second_moment:
        return None
    share = min(bias.second_moment / signal.second_moment, 1.0)
    text = f"its bias makes {share:.0%} of its output, the same for every input: begin at zero"
    return Cause("bias noise", text, "12, defaults")


def _copies(flow: Flow) -> dict[int, Cause]:
    """Find layers with the same weights that are not tied."""
    first: dict[Any, Node] = {}
    found: dict[int, Cause] = {}
    for node in flow:
        weight = getattr(node.module, "weight", None)
        if not node.multiplies or weight is None or node.row is None or not node.row.weight:
            continue
        law = node.row.weight
        key = (tuple(weight.shape), law.mean, law.var)
        other = first.setdefault(key, node)
        theirs: Any = getattr(other.module, "weight", None)
        if not law.var or theirs is weight or node.module is other.module or other.row is None:
            continue
        if bool((theirs == weight).all()):
            text = f"its weights are those of {other.row.name}, and not tied to them: draw anew"
            found[node.number] = Cause("weights copied", text, "14, training")
    return found
