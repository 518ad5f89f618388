"""What is said of a size that has left another one."""

import math
from dataclasses import dataclass

from handwave.flows import Flow
from handwave.moments import Moments
from handwave.nodes import Node

# The rms of a signal or a gradient may leave its starting point by so much.
FAR = 10.0


@dataclass(frozen=True)
class Verdict:
    """Hold one thing that is wrong at one node."""

    node: Node
    word: str
    sentence: str
    lesson: str
    grave: bool = True
    cause: str = ""


def sizes(moments: Moments, units: float) -> tuple[float, float]:
    """Return rms of an entry and norm of one input's entries: widths change one or the other."""
    return moments.rms, moments.rms * math.sqrt(units)


def left(now: tuple[float, float], start: tuple[float, float], least: float = 1.0) -> str:
    """Name the side on which both sizes have left [1/10, 10], with less below where that is due."""
    if not all(map(math.isfinite, (*now, *start))) or not all(start):
        return ""
    ratios = [a / b for a, b in zip(now, start, strict=True)]
    if min(ratios) > FAR:
        return "explodes"
    return "vanishes" if max(ratios) < least / FAR else ""


def last_layer(flow: Flow, node: Node) -> Node:
    """Name a sum by the layer that makes most of it, or what stands in its place."""
    if node.row:
        return node
    layers = [n for n in flow.before(node) if n.row and n.counts] or flow.layers(node.sources)
    return max(reversed(layers), key=lambda n: n.signal.second_moment, default=node)


def layer_name(flow: Flow, node: Node) -> str:
    """Return the name of a layer, or of the last one of a sum."""
    row = last_layer(flow, node).row
    return row.name if row else ""
