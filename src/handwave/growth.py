"""Sums that grow at each block of a residual network."""

import math
from collections.abc import Iterator
from statistics import median_low

from handwave.flows import Flow
from handwave.nodes import Node
from handwave.sizes import Verdict, last_layer

# A sum that grows so much, over several without a normalization, grows by its residuals.
_GROWTH, GROWN = 1.5, 4.0

RESIDUAL = "residual growth"

# By node, the factors by which a stream's second moment has grown up to there.
GrowthSteps = dict[int, list[float]]


def residual_growth(flow: Flow, spoilt: set[int], growth: GrowthSteps) -> Iterator[Verdict]:
    """Find sums that grow at each block, with no normalization in between.

    Args:
        flow: of one run.
        spoilt: nodes of which something worse was said, and what follows them.
        growth: of each stream.
    """
    for number, steps in growth.items():
        told = any(grows(steps[:end]) for end in range(len(steps)))
        if number not in spoilt and not told and steps[-1] >= _GROWTH and grows(steps):
            text = (
                f"each block adds as much as it got: the sum's second moment has grown "
                f"{math.prod(steps):.3g} times, with no normalization; scale branches by 1/√blocks"
            )
            layer = last_layer(flow, flow.nodes[number])
            yield Verdict(layer, "explodes", text, "11, layers", False, RESIDUAL)


def growth_steps(flow: Flow) -> GrowthSteps:
    """Find the factors by which the second moment of each stream has grown, sum by sum."""
    steps: GrowthSteps = {}
    for node in flow:
        if not node.counts or not node.parts or node.signal.nonfinite or flow.normed(node.number):
            continue  # scores with a mask are no stream
        stream = next((n for n in flow.before(node) if n.number in steps), None)
        start = stream or _entering(flow, node)
        if start is not None and start.signal.second_moment:
            step = node.signal.second_moment / start.signal.second_moment
            steps[node.number] = [*steps.get(start.number, []), step]
    return steps


def grows(steps: list[float]) -> bool:
    """Tell a stream that grows by its blocks in general, whatever a single one of them does."""
    return len(steps) > 1 and median_low(steps) ** len(steps) >= GROWN


def _entering(flow: Flow, node: Node) -> Node | None:
    """Find what a first block adds to: the earliest in front of its sum."""
    return next(iter(flow.before(node)), None)
