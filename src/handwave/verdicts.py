"""Tell where a signal or its gradient is lost, from one run."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import nn

from handwave.flows import Flow
from handwave.functions import kind_of
from handwave.gradients import gradients
from handwave.growth import RESIDUAL, growth_steps, residual_growth
from handwave.moments import Moments
from handwave.nodes import Node
from handwave.nonfinite import at_the_end, gradient_not_finite, not_finite
from handwave.scales import scales, small_at_the_end
from handwave.sizes import Verdict

# Shares: of entries at an end of an activation's range; of spread in the second moment.
_NEARLY_ALL, _HALF_OF_THEM, _COLLAPSED = 0.9, 0.5, 1e-4
_PRECISION = "13, precision"

_HALF = 65504.0  # float16 holds no more


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
    looked = (each for node in judged for each in (*_at(flow, node), *_stopped(flow, node)))
    wanted = silent & {node.number for node in flow if not flow.behind(node)}
    found += _first_of_each(flow, (each for each in looked if each.node.number not in wanted))
    worse = (v for v in found if v.grave or (v.word == "collapsed" and not flow.behind(v.node)))
    spoilt = hopeless | {verdict.node.number for verdict in worse}
    spoilt |= {node.number for node in flow if flow.ancestors(node.number) & spoilt}
    steps = growth_steps(flow)
    found += _first_of_each(flow, scales(flow, spoilt | silent, steps))
    found += residual_growth(flow, spoilt, steps)
    if not hopeless and not any(verdict.grave for verdict in found) and not silent & flow.last:
        found += _one_for_all(flow)
    yield from found
    if not hopeless and not any(verdict.word in _BLOCKING for verdict in found):
        yield from (Verdict(*each, _PRECISION) for each in gradient_not_finite(flow))
        yield from _gradients_besides(flow, silent, found)


def _gradients_besides(flow: Flow, silent: set[int], found: list[Verdict]) -> Iterator[Verdict]:
    """Find what is wrong with gradients and does not follow from what was found."""
    named = {(v.node.number, f"gradient {v.word}") for v in found if v.grave}
    small = {v.node.number for v in found if v.word == "vanishes" and not v.grave}
    small |= small_at_the_end(flow)
    large = {v.node.number for v in found if v.word == "explodes" and v.cause != RESIDUAL}
    grown = next((v.node for v in found if v.cause == RESIDUAL), None)
    for seen in gradients(flow, silent, small, large):
        by_growth = grown and seen.word == "gradient explodes"
        verdict = replace(seen, node=grown, cause=RESIDUAL) if by_growth else seen
        if (verdict.node.number, verdict.word) not in named:
            yield verdict
        named.add((verdict.node.number, verdict.word))  # once, whoever stands in front


# These give zeros where scores are masked.
_OF_SEVERAL = {nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax}

# Behind these there is no gradient to speak of.
_BLOCKING = {"dead units", "overflows", "not finite"}


def _first_of_each(flow: Flow, found: Iterable[Verdict]) -> list[Verdict]:
    """Leave out what was said of a layer in front already, or of an earlier call of the same."""
    kept: list[Verdict] = []
    for verdict in found:
        node, before = verdict.node, flow.ancestors(verdict.node.number)
        passed_on = verdict.word in ("overflows in float16", "collapsed")
        earlier = (k for k in kept if k.word == verdict.word and k.grave >= verdict.grave)
        if not any(
            (k.node.number in before and passed_on)
            or (k.node.module is node.module and (node.multiplies or k.node.number in before))
            for k in earlier
        ):
            kept.append(verdict)
    return kept


def _at(flow: Flow, node: Node) -> Iterator[Verdict]:
    """Look at one layer alone."""
    row, facts = node.row, node.facts
    if row is None or facts is None:
        return
    if row.signal.nonfinite or (facts.entering is not None and facts.entering.nonfinite):
        return  # said where it begins
    if row.dtype is not None and row.dtype.itemsize > 2 and facts.largest > _HALF:
        text = f"its output reaches {facts.largest:.3g}: it will overflow in float16"
        yield Verdict(node, "overflows in float16", text, _PRECISION, grave=False)
    if not facts.entering or not facts.entering.second_moment:
        return
    if node.multiplies and _collapses(node):
        text = (
            f"its output differs between inputs by {row.spread or 0:.1e}, beside a second moment "
            f"of {row.signal.second_moment:.1e}: every input gives the same"
        )
        # A last bias may be the mean of the target; a gate may be the same for all inputs.
        wanted = _differs_again(flow, node) if flow.behind(node) else node.large_bias
        yield Verdict(node, "collapsed", text, "12, defaults", grave=not wanted)


def _stopped(flow: Flow, node: Node) -> Iterator[Verdict]:
    """Look at an activation through which nothing comes back, be it a module or a function."""
    before = flow.layers(node.sources)
    if not _loses(node) or node.aside or node.signal.nonfinite or not _entering(node, before):
        return
    told, whose, kind = node, "its output", kind_of(node.module)
    if not node.row and kind:
        told = max(before, key=lambda n: n.signal.second_moment)
        whose = f"what the {kind.__name__} behind it hands on"
    passed = not node.row and told.row and told.row.grad and told.row.grad.rms
    if node.zeros == 1 and passed:
        return  # a gradient comes another way: the hinge of a loss
    if node.zeros >= _NEARLY_ALL:
        text = f"{node.zeros:.0%} of {whose} is zero: no gradient passes there"
        yield Verdict(told, "dead units", text, "7, relu")
    elif node.at_the_ends >= _HALF_OF_THEM:
        text = f"{node.at_the_ends:.0%} of {whose} stands at an end of its range"
        in_front = [f"{n.row.name}, whose rms is {n.signal.rms:.3g}" for n in before if n.row]
        text += f", behind {' and '.join(in_front)}" if node.row and in_front else ""
        yield Verdict(told, "saturated", text, "8, gains", node.at_the_ends >= _NEARLY_ALL)


def _entering(node: Node, before: list[Node]) -> bool:
    """Tell whether an activation takes finite numbers, and not zeros alone."""
    signals = [node.facts.entering] if node.facts else [each.signal for each in before]
    known = [signal for signal in signals if signal]
    return any(s.second_moment for s in known) and not any(s.nonfinite for s in known)


def _loses(node: Node) -> bool:
    """Tell an activation from dropout, pooling and whatever else may give zeros."""
    kind = kind_of(node.module)
    elsewhere = node.counts or node.normalizes or kind in _OF_SEVERAL
    return not elsewhere and getattr(kind, "__module__", "") == nn.ReLU.__module__


def _differs_again(flow: Flow, node: Node) -> bool:
    """Tell whether inputs differ again behind a layer, as other ways lead there."""
    if not flow.leads_around(node):
        return False
    behind = [n.facts for n in flow.descendants(node) if n.multiplies]
    if not behind:
        return bool(flow.ends.differs)  # it was added to what does
    return any(f and f.entering and f.apart > _COLLAPSED * f.entering.second_moment for f in behind)


def _one_for_all(flow: Flow) -> Iterator[Verdict]:
    """Find what makes the model return the same for all inputs, where nothing else was found."""
    if flow.ends.differs is not False:
        return
    ways = flow.ends.main.union(*(flow.ancestors(n) for n in flow.ends.main if n in flow.nodes))
    ended = [node for node in flow if node.number in ways and _ends_differences(node)]
    for node in ended[-1:]:
        spread = node.row.spread if node.row else 0.0
        text = (
            f"from here on inputs differ by {spread:.1e}, beside a second moment of "
            f"{node.signal.second_moment:.1e}, and what the model returns is the same for all"
        )
        yield Verdict(node, "collapsed", text, "12, defaults")


def _ends_differences(node: Node) -> bool:
    """Tell whether inputs differ in front of a row, whole numbers among them, but not behind it."""
    row, facts = node.row, node.facts
    if row is None or facts is None or row.spread is None:
        return False
    before = facts.varied
    if facts.entering is not None:
        before = facts.apart > _COLLAPSED * facts.entering.second_moment
    return bool(before) and row.spread <= _COLLAPSED * row.signal.second_moment


def _collapses(node: Node) -> bool:
    """Tell whether the inputs of a batch become one here."""
    row, facts = node.row, node.facts
    if row is None or facts is None or row.spread is None or facts.entering_spread is None:
        return False
    before, after = facts.entering or Moments(0.0, 0.0), row.signal.second_moment
    differed = facts.entering_spread > _COLLAPSED * before.second_moment
    return differed and bool(after) and row.spread < _COLLAPSED * after
