"""Follow the size of a gradient back from where it comes in."""

from collections.abc import Iterator
from dataclasses import dataclass

from handwave.flows import Flow
from handwave.nodes import Node
from handwave.sizes import Verdict, layer_name, left, sizes


@dataclass
class _Chain:
    """Follow one gradient from where it came in, and know whether something was said of it."""

    start: Node
    told: bool = False


def gradients(flow: Flow, silent: set[int], small: set[int], large: set[int]) -> Iterator[Verdict]:
    """Compare the gradients of sums with where they came in, against the way of the signal.

    Behind a layer that is small on purpose they begin anew, but for those that are gone; in front
    of one that makes the signal explode they follow from that.

    Args:
        flow: of one run.
        silent: nodes whose weights are zero on purpose: no gradient passes them yet.
        small: nodes that are small on purpose.
        large: nodes that make the signal explode.
    """
    quiet = silent.union(*(flow.ancestors(number) for number in silent))
    chains: dict[int, _Chain] = {}
    inside = flow.in_branches()
    for node in reversed(list(flow)):
        grad = node.row.grad if node.row else None
        if not node.multiplies or grad is None:
            continue
        behind = _differentiated(flow.behind(node, through_sums=True))
        prior = [chains[n.number] for n in behind if n.number in chains]
        pooled = any(n.positions != node.positions for n in behind)
        wanted = bool(grad.rms) and all(n.number in small for n in behind)
        fresh = not prior or pooled or wanted or any(n.normalizes for n in behind)
        first = node if fresh else max((c.start for c in prior), key=_gradient_rms)
        told = any(c.told for c in prior) and not fresh
        chain = chains[node.number] = _Chain(first, told or node.number in large)
        source = first.row.grad if first.row and first.row.grad else grad
        word = left(sizes(grad, node.units), sizes(source, first.units))
        if not word or told or (word == "vanishes" and node.number in inside):
            continue
        if not grad.rms and node.number in quiet:
            continue
        chain.told = True
        text = (
            f"the gradient at the output of {layer_name(flow, node)} has "
            f"{grad.rms / (source.rms or 1):.3g} times the rms of that at {layer_name(flow, first)}"
        )
        yield Verdict(max(behind, key=_handed_back), f"gradient {word}", text, "9, backward")


def _differentiated(behind: list[Node]) -> list[Node]:
    """Leave out layers that no gradient came into, if it came into others: a second head."""
    return [node for node in behind if _gradient_rms(node)] or behind


def _gradient_rms(node: Node) -> float:
    return node.row.grad.rms if node.row and node.row.grad else 0.0


def _handed_back(node: Node) -> float:
    """Return the size of the gradient that a layer sends to what stands in front of it."""
    row = node.row
    by_weight = row.weight.second_moment * (row.fan_out or 1.0) if row and row.weight else 1.0
    return by_weight * _gradient_rms(node) ** 2
