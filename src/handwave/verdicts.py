"""Tell where a signal or its gradient is lost, from one run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median_low

from torch import nn

from handwave.flows import Facts, Flow, Node
from handwave.moments import Moments
from handwave.nonfinite import at_the_end, gradient_not_finite, not_finite

# The rms of a signal or a gradient may leave its starting point by so much.
_FAR = 10.0
# Shares: of entries at an end of an activation's range; of spread in the second moment.
_NEARLY_ALL, _HALF_OF_THEM, _COLLAPSED = 0.9, 0.5, 1e-4
# A sum that grows so much, over several without a normalization, grows by its residuals.
_GROWTH, _GROWN = 1.5, 4.0

_LAYERS, _PRECISION, _RESIDUAL = "11, layers", "13, precision", "residual growth"

_HALF = 65504.0  # float16 holds no more


@dataclass(frozen=True)
class Verdict:
    """Hold one thing that is wrong at one node."""

    node: Node
    word: str
    sentence: str
    lesson: str
    grave: bool = True
    cause: str = ""


def verdicts(flow: Flow, hopeless: set[int], silent: set[int]) -> Iterator[Verdict]:
    """Find everything that is wrong, each thing where it begins.

    Args:
        flow: of one run.
        hopeless: nodes whose weights make nothing of what enters: what follows is no news.
        silent: nodes whose weights are zero on purpose: no gradient passes them yet.
    """
    judged = [node for node in flow if not flow.ancestors(node.number) & hopeless]
    lost = list(not_finite(flow, judged))
    if not lost and not hopeless:
        lost += at_the_end(flow)
    found = [Verdict(*each, _PRECISION) for each in lost]
    found += _first_of_each(flow, [verdict for node in judged for verdict in _at(node)])
    spoilt = hopeless | {verdict.node.number for verdict in found if verdict.grave}
    spoilt |= {node.number for node in flow if flow.ancestors(node.number) & spoilt}
    found += [*_scales(flow, spoilt), *_residual_growth(flow, spoilt)]
    yield from found
    yield from _first_steps(flow, spoilt)
    if not hopeless and not any(verdict.word in _BLOCKING for verdict in found):
        yield from (Verdict(*each, _PRECISION) for each in gradient_not_finite(flow))
        yield from _gradients_besides(flow, silent, found)


def _gradients_besides(flow: Flow, silent: set[int], found: list[Verdict]) -> Iterator[Verdict]:
    """Find what is wrong with gradients and does not follow from what was found."""
    named = {(v.node.number, f"gradient {v.word}") for v in found if v.grave}
    small = {v.node.number for v in found if v.word == "vanishes" and not v.grave}
    large = {v.node.number for v in found if v.word == "explodes" and v.cause != _RESIDUAL}
    grown = next((v.node for v in found if v.cause == _RESIDUAL), None)
    for seen in _gradients(flow, silent, small, large):
        by_growth = grown and seen.word == "gradient explodes"
        verdict = replace(seen, node=grown, cause=_RESIDUAL) if by_growth else seen
        if (verdict.node.number, verdict.word) not in named:
            yield verdict
        named.add((verdict.node.number, verdict.word))  # once, whoever stands in front


# Behind these there is no gradient to speak of.
_BLOCKING = {"dead units", "overflows", "not finite"}


def _first_of_each(flow: Flow, found: list[Verdict]) -> list[Verdict]:
    """Leave out what was said of a layer in front already: it goes on from there."""
    kept: list[Verdict] = []
    for verdict in found:
        before = flow.ancestors(verdict.node.number)
        passed_on = verdict.word in ("overflows in float16", "collapsed")
        if not passed_on or not any(
            k.word == verdict.word and k.node.number in before for k in kept
        ):
            kept.append(verdict)
    return kept


def _at(node: Node) -> Iterator[Verdict]:
    """Look at one layer alone."""
    row, facts = node.row, node.facts
    if row is None or facts is None:
        return
    if row.signal.nonfinite or (facts.entering is not None and facts.entering.nonfinite):
        return  # said where it begins
    if row.dtype is not None and row.dtype.itemsize > 2 and facts.largest > _HALF:
        text = f"its output reaches {facts.largest:.3g}: it will overflow in float16"
        yield Verdict(node, "overflows in float16", text, _PRECISION, grave=False)
    entering = facts.entering
    if entering is None or not entering.second_moment:
        return
    if not node.counts and not node.normalizes and _loses(node):
        if (row.zeros or 0.0) >= _NEARLY_ALL:
            text = f"{row.zeros:.0%} of its output is zero: no gradient passes there"
            yield Verdict(node, "dead units", text, "7, relu")
        elif facts.at_the_ends >= _HALF_OF_THEM:
            text = f"{facts.at_the_ends:.0%} of its output stands at an end of its range"
            yield Verdict(node, "saturated", text, "8, gains", facts.at_the_ends >= _NEARLY_ALL)
    if node.multiplies and _collapses(node):
        text = (
            f"its output differs between inputs by {row.spread or 0:.1e}, beside a second moment "
            f"of {row.signal.second_moment:.1e}: every input gives the same"
        )
        yield Verdict(node, "collapsed", text, "12, defaults")


def _loses(node: Node) -> bool:
    """Tell an activation from dropout, pooling and whatever else may give zeros."""
    return node.module is not None and type(node.module).__module__ == nn.ReLU.__module__


def _collapses(node: Node) -> bool:
    """Tell whether the inputs of a batch become one here."""
    row, facts = node.row, node.facts
    if row is None or facts is None or row.spread is None or facts.entering_spread is None:
        return False
    before, after = facts.entering or Moments(0.0, 0.0), row.signal.second_moment
    differed = facts.entering_spread > _COLLAPSED * before.second_moment
    return differed and bool(after) and row.spread < _COLLAPSED * after


@dataclass
class _Chain:
    """Follow one scale from where it began.

    Args:
        start: where that was.
        told: whether something was said of it already.
        least: what averaging on the way may have left of an rms, as a share.
    """

    start: Node
    told: bool = False
    least: float = 1.0


def _scales(flow: Flow, spoilt: set[int]) -> Iterator[Verdict]:
    """Compare the rms of sums with where their chain began, anew behind each normalization."""
    chains: dict[int, _Chain] = {}
    inside, steps = flow.in_branches(), _steps(flow)
    for node in flow:
        if not node.counts:
            continue
        before = flow.before(node)
        prior = [chains[n.number] for n in before if n.number in chains]
        fresh = not prior or (node.parts is not None and flow.normed(node.number))
        if fresh and node.signal.nonfinite:
            continue  # scores with a mask, which nothing can be compared to
        first = node if fresh else max((c.start for c in prior), key=lambda n: n.signal.rms)
        chain = chains[node.number] = _Chain(first)
        if not fresh:
            chain.told = any(c.told for c in prior)
            chain.least = min(c.least for c in prior) * _left_by_averaging(node, before)
        added = not node.parts and any(n.parts for n in flow.behind(node))
        if chain.told or node.number in spoilt or added or flow.rescued(node):
            continue
        sizes = _sizes(node.signal, node.units), _sizes(first.signal, first.units)
        word = _left(*sizes, chain.least)
        if (
            word == "vanishes"
            and (node.number in inside or _comes_back(flow, node, first.signal.rms))
        ) or (word == "explodes" and _grew_in_front(flow, node, first)):
            continue
        if word:
            chain.told = True
            verdict = _scale_verdict(flow, node, first, word)
            grown = word == "explodes" and _grows(steps.get(node.number, []))
            yield replace(verdict, cause=_RESIDUAL) if grown else verdict


def _first_steps(flow: Flow, spoilt: set[int]) -> Iterator[Verdict]:
    """Compare what begins a chain with what enters it: the model's input, or what a norm put out.

    No failure: how large an input is, and how large the next layers want it, is up to others.
    """
    inside = flow.in_branches()
    for node in flow:
        entering = node.facts.entering if node.facts else None
        first = all(each.normalizes for each in flow.before(node))
        if not node.multiplies or not first or entering is None or not node.signal.count:
            continue
        units = entering.count * node.units / node.signal.count
        word = _left(_sizes(node.signal, node.units), _sizes(entering, units))
        small = word == "vanishes"
        if not word or node.number in spoilt or flow.rescued(node):
            continue
        if not (small and (node.number in inside or _comes_back(flow, node, entering.rms))):
            ratio = node.signal.rms / entering.rms
            text = f"the rms of its output is {ratio:.3g} times that of its input"
            yield Verdict(node, word, text, "6, fix", grave=False)


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
    spreads = [_apart(n.facts) for n in flow.behind(node) if n.facts]
    return bool(spreads) and math.sqrt(min(spreads)) * _FAR > rms


def _apart(facts: Facts) -> float:
    """Return how inputs of a layer differ; of a single one, how its entries do."""
    if facts.entering_spread is not None:
        return facts.entering_spread
    return facts.entering.var if facts.entering else 0.0


def _grew_in_front(flow: Flow, node: Node, first: Node) -> bool:
    """Tell whether a layer only takes what a sum, which is judged itself, has become."""
    if node.parts:
        return False
    streams = [n.signal.second_moment for n in flow.before(node) if n.parts]
    return max(streams, default=0.0) > _GROWN * first.signal.second_moment


def _scale_verdict(flow: Flow, node: Node, first: Node, word: str) -> Verdict:
    ratio = node.signal.rms / first.signal.rms
    text = f"the rms of its output is {ratio:.3g} times that of {_name(flow, first)}"
    if node.parts:
        text = f"its sum has {ratio:.3g} times the rms of that of {_name(flow, first)}"
        return Verdict(_last_layer(flow, node), word, text, _LAYERS)
    # A small last layer is often wanted: its outputs begin near zero. But by its own weights.
    entering = node.facts.entering if node.facts else None
    lost_before = entering is not None and entering.rms < first.signal.rms / _FAR
    grave = word == "explodes" or bool(flow.behind(node)) or lost_before
    return Verdict(node, word, text, "6, fix", grave)


def _gradients(flow: Flow, silent: set[int], small: set[int], large: set[int]) -> Iterator[Verdict]:
    """Compare the gradients of sums with where they came in, against the way of the signal.

    Behind a layer that is small on purpose they begin anew, but for those that are gone; in front
    of one that makes the signal explode they follow from that.
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
        word = _left(_sizes(grad, node.units), _sizes(source, first.units))
        if not word or told or (word == "vanishes" and node.number in inside):
            continue
        if not grad.rms and node.number in quiet:
            continue
        chain.told = True
        text = (
            f"the gradient at the output of {_name(flow, node)} has "
            f"{grad.rms / (source.rms or 1):.3g} times the rms of that at {_name(flow, first)}"
        )
        yield Verdict(max(behind, key=_handed_back), f"gradient {word}", text, "9, backward")


def _differentiated(behind: list[Node]) -> list[Node]:
    """Leave out layers that no gradient came into, if it came into others: a second head."""
    return [node for node in behind if _gradient_rms(node)] or behind


def _residual_growth(flow: Flow, spoilt: set[int]) -> Iterator[Verdict]:
    """Find sums that grow at each block, with no normalization in between."""
    for number, steps in _steps(flow).items():
        told = any(_grows(steps[:end]) for end in range(len(steps)))
        if number not in spoilt and not told and steps[-1] >= _GROWTH and _grows(steps):
            text = (
                f"each block adds as much as it got: the sum's second moment has grown "
                f"{math.prod(steps):.3g} times, with no normalization; scale branches by 1/√blocks"
            )
            layer = _last_layer(flow, flow.nodes[number])
            yield Verdict(layer, "explodes", text, _LAYERS, False, _RESIDUAL)


def _steps(flow: Flow) -> dict[int, list[float]]:
    """Find the factors by which the second moment of each stream has grown, sum by sum."""
    steps: dict[int, list[float]] = {}
    for node in flow:
        if not node.counts or not node.parts or node.signal.nonfinite or flow.normed(node.number):
            continue  # scores with a mask are no stream
        stream = next((n for n in flow.before(node) if n.number in steps), None)
        start = stream or _entering(flow, node)
        if start is not None and start.signal.second_moment:
            step = node.signal.second_moment / start.signal.second_moment
            steps[node.number] = [*steps.get(start.number, []), step]
    return steps


def _grows(steps: list[float]) -> bool:
    """Tell a stream that grows by its blocks in general, whatever a single one of them does."""
    return len(steps) > 1 and median_low(steps) ** len(steps) >= _GROWN


def _entering(flow: Flow, node: Node) -> Node | None:
    """Find what a first block adds to: the earliest in front of its sum."""
    return next(iter(flow.before(node)), None)


def _last_layer(flow: Flow, node: Node) -> Node:
    """Name a sum by the last layer with weights in it, or what stands in its place."""
    while node.parts:
        layers = [n for n in flow.before(node) if n.row and n.counts]
        node = layers[-1] if layers else flow.nodes[max(node.sources)]
    return node


def _sizes(moments: Moments, units: float) -> tuple[float, float]:
    """Return rms of an entry and norm of one input's entries: widths change one or the other."""
    return moments.rms, moments.rms * math.sqrt(units)


def _left(now: tuple[float, float], start: tuple[float, float], least: float = 1.0) -> str:
    """Name the side on which both sizes have left [1/10, 10], with less below where that is due."""
    if not all(map(math.isfinite, (*now, *start))) or not all(start):
        return ""
    ratios = [a / b for a, b in zip(now, start, strict=True)]
    if min(ratios) > _FAR:
        return "explodes"
    return "vanishes" if max(ratios) < least / _FAR else ""


def _gradient_rms(node: Node) -> float:
    return node.row.grad.rms if node.row and node.row.grad else 0.0


def _handed_back(node: Node) -> float:
    """Return the size of the gradient that a layer sends to what stands in front of it."""
    row = node.row
    by_weight = row.weight.second_moment * (row.fan_out or 1.0) if row and row.weight else 1.0
    return by_weight * _gradient_rms(node) ** 2


def _name(flow: Flow, node: Node) -> str:
    row = _last_layer(flow, node).row
    return row.name if row else ""
