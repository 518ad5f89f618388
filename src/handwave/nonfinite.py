"""Where numbers stop being finite: in a layer, between two, behind the last, on the way back."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from handwave.flows import Flow
from handwave.moments import Moments
from handwave.nodes import Node
from handwave.traces import Layer


class Lost(NamedTuple):
    """Say at which node numbers are lost first, in a word and in a sentence."""

    node: Node
    word: str
    sentence: str


def not_finite(flow: Flow, judged: list[Node]) -> Iterator[Lost]:
    """Find the layers where numbers stop being finite, whether in them or on the way there.

    What is not finite only between two layers is no loss: a mask is, in front of its softmax.
    Nor is a mask that a layer makes.
    """
    masks = _masks(flow)
    lost: set[int] = set()
    told: set[frozenset[int]] = set()
    for node in judged:
        row, facts = node.row, node.facts
        if row is None or facts is None or not row.signal.nonfinite or node.number in masks:
            continue
        before = bool(flow.ancestors(node.number) & lost)
        lost.add(node.number)
        if before:
            continue
        if facts.entering is None or not facts.entering.nonfinite:
            yield _lost_inside(node, row, facts.largest)
        elif node.sources not in told:  # else another layer took the same
            told.add(node.sources)
            yield _lost_in_front(flow, node, facts.entering)


def _masks(flow: Flow) -> set[int]:
    """Find the layers that put out -inf on purpose: what takes it makes finite numbers of it."""
    masks: set[int] = set()
    for node in reversed(list(flow)):
        if node.row is None or node.multiplies or node.row.signal.mean != -math.inf:
            continue  # NaN and +inf would have made another mean
        behind = flow.layers_behind(node)
        healed = not any(n.signal.nonfinite and n.number not in masks for n in behind)
        if healed and (
            _gradient_passes(flow, node) is not False if behind else _meant_at_the_end(flow, node)
        ):
            masks.add(node.number)
    return masks


def _meant_at_the_end(flow: Flow, node: Node) -> bool:
    """Tell a mask behind which no layer stands: a constant, or what the gradient passes.

    That of a number which was too large for float16 passes too.
    """
    wide = node.row is not None and node.row.dtype is not torch.float16
    return not flow.ends.returned and (
        not node.sources or (wide and _gradient_passes(flow, node) is True)
    )


def _gradient_passes(flow: Flow, node: Node) -> bool | None:
    """Tell a mask, which the gradient passes, from log(0) or -exp(1000); None: nobody knows."""
    grad = node.row.grad if node.row else None
    front = [n.row.grad for n in flow.layers(node.sources) if n.row and n.row.grad]
    if grad is None or grad.nonfinite or not front:
        return None
    return not any(each.nonfinite for each in front)


def _lost_inside(node: Node, row: Layer, largest: float) -> Lost:
    """Tell NaN that a function makes of finite numbers from sums that are too large."""
    if node.module and not _weights_are_finite(node.module):
        text = f"its own weights are NaN or infinite: {_how_many(row.signal)} that it puts out are"
        return Lost(node, "not finite", text)
    if math.isnan(largest) and not node.multiplies:
        text = f"of finite numbers it makes NaN: {_how_many(row.signal)} that it puts out are lost"
        return Lost(node, "not finite", text)
    text = f"its output leaves the range of {str(row.dtype).removeprefix('torch.')}"
    return Lost(node, "overflows", text)


def _weights_are_finite(module: nn.Module) -> bool:
    """Look at what a layer computes with: parameters, and what it has kept of other runs."""
    held = (*module.parameters(), *module.buffers())
    return all(bool(tensor.isfinite().all()) for tensor in held)


def _lost_in_front(flow: Flow, node: Node, entering: Moments) -> Lost:
    """Say what stands in front: other layers, or the input."""
    front = flow.layers(node.sources)
    if front:
        where = f"though all that {_names(front)} put out are finite: it arises between them"
    elif flow.ends.given:
        where = "and the input holds NaN or infinite ones"
    else:
        where = "though the input is finite, and no layer stands in front: it arises between them"
    text = f"{_how_many(entering)} that enter it are NaN or infinite, {where}"
    return Lost(node, "not finite", text)


def at_the_end(flow: Flow) -> Iterator[Lost]:
    """Look at what the model returns, behind its last layers."""
    ends, layers = flow.ends, flow.layers(flow.ends.sources) or [n for n in flow if n.row][-1:]
    if ends.returned and layers:
        text = (
            f"{ends.returned} of the numbers that the model returns are NaN or infinite, though "
            f"all that {_names(layers)} put out are finite: it arises behind"
        )
        yield Lost(layers[-1], "not finite", text)


def gradient_not_finite(flow: Flow) -> Iterator[Lost]:
    """Find where the gradient first stops being finite, on its way back."""
    for node in reversed(list(flow)):
        grad = node.row.grad if node.row else None
        if grad is None or not grad.nonfinite:
            continue
        behind = [n for n in flow.layers_behind(node) if n.row and n.row.grad]
        where = f"though behind {_names(behind)} it is finite: " if behind else ""
        text = (
            f"the gradient behind it is NaN or infinite in {_how_many(grad)}, {where}"
            "it arises on the way back"
        )
        yield Lost(node, "gradient not finite", text)
        return


def _how_many(moments: Moments) -> str:
    return f"{moments.nonfinite} of {moments.count} numbers"


def _names(layers: list[Node]) -> str:
    """Name a few layers, the nearest ones."""
    return ", ".join(node.row.name for node in layers[-3:] if node.row)
