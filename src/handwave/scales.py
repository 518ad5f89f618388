"""Follow the size of a signal from where it begins."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from handwave.flows import Flow
from handwave.growth import GROWN, RESIDUAL, GrowthSteps, grows
from handwave.nodes import Node
from handwave.sizes import FAR, Verdict, last_layer, layer_name, left, sizes


@dataclass
class _Chain:
    """Follow one scale from where it began.

    Args:
        start: where that was.
        told: whether something was said of it already.
        least: what averaging on the way may have left of an rms, as a share.
        most: what bounded functions on the way, sin and its like, let no rms exceed.
        entered: the rms of what entered a start that is small on purpose.
    """

    start: Node
    told: bool = False
    least: float = 1.0
    most: float = math.inf
    entered: float = 0.0

    def gone(self, node: Node) -> str:
        """Name the side on which a node has left what its size is held against."""
        rms, units = min(self.start.signal.rms, self.most), math.sqrt(self.start.units)
        now = sizes(node.signal, node.units)
        word = left(now, (rms, rms * units), self.least)
        if word == "explodes":
            rms = max(rms, self.entered)
            word = left(now, (rms, rms * units))
        return word


def scales(flow: Flow, spoilt: set[int], steps: GrowthSteps) -> Iterator[Verdict]:
    """Compare the rms of sums with where their chain began, anew behind each normalization.

    Args:
        flow: of one run.
        spoilt: nodes of which something worse was said, and what follows them.
        steps: the growth of each stream.
    """
    chains: dict[int, _Chain] = {}
    inside = flow.in_branches()
    for node in flow:
        prior = [chains[n.number] for n in flow.before(node) if n.number in chains]
        fresh = not prior or (node.parts is not None and flow.normed(node.number))
        if not node.counts or (fresh and node.signal.nonfinite):
            continue  # scores with a mask, which nothing can be compared to
        small = node.number in inside or _comes_back(flow, node, _entering_rms(node))
        begun = _Chain(node, entered=_entering_rms(node) if small else 0.0)
        chain = chains[node.number] = begun if fresh else _gone_on(flow, node, prior)
        if chain.told or node.number in spoilt or flow.rescued(node):
            continue
        verdict = (
            _first_step(flow, node, small) if fresh else _later_step(flow, node, chain, inside)
        )
        if verdict:
            chain.told = verdict.grave or not fresh
            grown = verdict.word == "explodes" and grows(steps.get(node.number, []))
            yield replace(verdict, cause=RESIDUAL) if grown else verdict


def _gone_on(flow: Flow, node: Node, prior: list[_Chain]) -> _Chain:
    """Follow the largest of the chains that come together."""
    return _Chain(
        max((c.start for c in prior), key=lambda n: n.signal.rms),
        any(c.told for c in prior),
        min(c.least for c in prior) * _left_by_averaging(node, flow.before(node)),
        min(max(c.most for c in prior), flow.held(node)),
        max(c.entered for c in prior),
    )


def _first_step(flow: Flow, node: Node, small: bool) -> Verdict | None:
    """Compare what begins a chain with what enters it: the model's input, or what a norm put out.

    How large an input is, and how large the next layers want it, is up to others: a failure is
    what leaves 1 as well, or the scale of the norm, where nothing behind sets it anew.

    Args:
        flow: of one run.
        node: the layer.
        small: whether it may be small on purpose.
    """
    norms = flow.before(node)
    word = _of_itself(node, []) if node.multiplies else ""
    if not word or (word == "vanishes" and small) or not all(n.normalizes for n in norms):
        return None
    if norms:
        large = _of_itself(node, norms) == "explodes" and (node.large_bias or not node.mostly_bias)
        return _by_itself(node, word, large)
    behind = flow.behind(node)
    held = bool(behind) and all(flow.held(n) < math.inf for n in behind)
    anew = (held and word == "explodes") or not flow.gets_out(node)
    return _by_itself(node, word, not anew and not 1 / FAR <= node.signal.rms <= FAR)


def _later_step(flow: Flow, node: Node, chain: _Chain, inside: set[int]) -> Verdict | None:
    """Compare a layer, or a sum, with where its chain began; a layer with what enters it, too.

    Args:
        flow: of one run.
        node: the layer or sum.
        chain: what leads to it.
        inside: the nodes in residual branches, which may be small on purpose.
    """
    word, first = chain.gone(node), chain.start
    if not node.parts and any(n.parts for n in flow.behind(node)):
        return None  # the sum is judged
    if word == "vanishes" and (node.number in inside or _comes_back(flow, node, first.signal.rms)):
        return None
    if word == "explodes" and _grew_in_front(flow, node, first):
        return None
    if word:
        return _scale_verdict(flow, node, first, word)
    by_weight = node.multiplies and not node.mostly_bias
    alone = by_weight and _of_itself(node, flow.before(node)) == "explodes"
    return _by_itself(node, "explodes", True) if alone else None


def _by_itself(node: Node, word: str, grave: bool) -> Verdict:
    ratio = node.signal.rms / _entering_rms(node)
    text = f"the rms of its output is {ratio:.3g} times that of its input"
    return Verdict(node, word, text, "6, fix", grave)


def _of_itself(node: Node, before: list[Node]) -> str:
    """Name the side on which a layer's output has left what enters it, and what put that out."""
    entering = node.facts.entering if node.facts else None
    if entering is None or not node.signal.count:
        return ""
    units = entering.count * node.units / node.signal.count
    word = left(sizes(node.signal, node.units), sizes(entering, units))
    largest = max((each.signal.rms for each in before), default=0.0)
    return "" if word == "explodes" and node.signal.rms <= FAR * largest else word


def _entering_rms(node: Node) -> float:
    entering = node.facts.entering if node.facts else None
    return entering.rms if entering else 0.0


def small_at_the_end(flow: Flow) -> set[int]:
    """Find last layers that make little of what enters them, as is often wanted."""
    last = (node for node in flow if node.multiplies and not flow.behind(node))
    return {node.number for node in last if _of_itself(node, []) == "vanishes"}


def _left_by_averaging(node: Node, before: list[Node]) -> float:
    """Return the least share of an rms that averages in front of a layer may leave, or in it.

    Of n numbers around zero that is 1/√n: pooling makes fewer of many, and attention sums over
    whatever positions there are.
    """
    entering = node.facts.entering if node.facts else None
    if entering is None or not entering.count:
        return 1.0
    averaged = max((n.signal.count for n in before), default=0) / entering.count
    module = node.module
    attention = isinstance(module, nn.MultiheadAttention)
    positions = entering.count / module.embed_dim if attention else 1.0
    return 1 / math.sqrt(max(averaged, 1.0) * max(positions, 1.0))


def _comes_back(flow: Flow, node: Node, rms: float) -> bool:
    """Tell whether what is behind a layer makes its differences large again: sin(30·x), say."""
    behind = (n for n in flow.behind(node) if flow.before(n) == [node])  # not beside others
    spreads = [n.facts.apart for n in behind if n.facts]
    return bool(spreads) and math.sqrt(min(spreads)) * FAR > rms


def _grew_in_front(flow: Flow, node: Node, first: Node) -> bool:
    """Tell whether a layer only takes what a sum, which is judged itself, has become."""
    if node.parts:
        return False
    streams = [n.signal.second_moment for n in flow.before(node) if n.parts]
    return max(streams, default=0.0) > GROWN * first.signal.second_moment


def _scale_verdict(flow: Flow, node: Node, first: Node, word: str) -> Verdict:
    ratio = node.signal.rms / first.signal.rms
    text = f"the rms of its output is {ratio:.3g} times that of {layer_name(flow, first)}"
    if node.parts:
        text = f"its sum has {ratio:.3g} times the rms of that of {layer_name(flow, first)}"
        return Verdict(last_layer(flow, node), word, text, "11, layers")
    # A small last layer is often wanted: its outputs begin near zero. But by its own weights.
    entering = node.facts.entering if node.facts else None
    lost_before = entering is not None and entering.rms < first.signal.rms / FAR
    grave = word == "explodes" or bool(flow.behind(node)) or lost_before
    return Verdict(node, word, text, "6, fix", grave)
