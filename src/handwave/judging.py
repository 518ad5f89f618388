"""Run a model under the eyes of a witness, and judge each layer by what entered it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from handwave.causes import OF_INPUT, causes
from handwave.expecting import expect
from handwave.flows import Ends, Flow
from handwave.measuring import Seen, record
from handwave.moments import Moments
from handwave.nested import tensors
from handwave.nodes import Facts, Node
from handwave.recipes import Cause
from handwave.reports import Finding, Report
from handwave.restoring import is_plain, nothing_left_behind
from handwave.running import Inputs, first_floating, floating, on_cpu, transformed
from handwave.saturation import at_the_ends
from handwave.streams import Streams
from handwave.traces import Layer, Trace
from handwave.verdicts import verdicts


def judged(model: nn.Module, inputs: Inputs, backward: bool) -> Report:
    """Run the model once, and tell what is wrong with which layer.

    Args:
        model: the module.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        backward: whether to look at gradients.
    """
    witness = _Witness()
    before = model.register_forward_pre_hook(witness.given, with_kwargs=True)
    after = model.register_forward_hook(witness.returned)
    try:
        with witness.streams:
            trace, seen = record(model, inputs, backward=backward, look=witness)
    finally:
        before.remove()
        after.remove()
    _check_measured(trace)
    ends = replace(witness.ends, given=sum(map(_not_finite, floating(inputs))))
    flow = Flow(_calls(trace, seen), witness.streams.steps.values(), ends)
    # A spectral norm takes a step each time it is looked at.
    with on_cpu(), nothing_left_behind(model):
        measured, predicted = _both(trace, seen, flow)
        findings = [*_told(flow), *_never_called(trace), *_trained(measured)]
    order = {row.name: place for place, row in enumerate(trace)}
    findings.sort(key=lambda pair: order.get(pair[0].layer, len(order)))
    return Report(
        measured,
        predicted,
        tuple(finding for finding, _ in findings),
        tuple(finding for finding, grave in findings if grave),
    )


# Of an entry, what differs between inputs by rounding alone.
_ROUNDING = 1e-6


class _Witness:
    """Look at each call while the model runs: what came in, and where it came from."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.ends = Ends()
        self.several = False  # whether there are inputs that differ

    def forward(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Facts:
        """Take down the facts of one call."""
        given = list(tensors((args, kwargs)))
        sources = self.streams.sources(given)
        made = output.detach()
        with torch._C.DisableTorchFunction():
            facts = Facts(
                node=0,
                sources=sources,
                entering=None,  # taken before the call
                entering_spread=None,
                expected=expect(module, args, kwargs),
                largest=float(made.abs().max()),
                at_the_ends=at_the_ends(module, made),
                known=self.streams.known(given),
                normed=self.streams.normed(output),
                varied=any(map(_differs, (t for t in given[:1] if not t.is_floating_point()))),
            )
        return replace(facts, node=self.streams.born([output]))

    def backward(self, module: nn.Module, grad: Tensor) -> None:
        """See nothing more in a gradient than its moments."""

    def given(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """Know the inputs when they are met again."""
        with torch._C.DisableTorchFunction():
            self.several = any(map(_differs, tensors((args, kwargs))))
        self.streams.entered(tensors((args, kwargs)))

    def returned(self, _: nn.Module, args: Any, output: Any) -> None:
        """Look at the model's outputs: where they came from, and what is not finite.

        Scores are masked with -inf.
        """
        first = first_floating(output)
        with torch._C.DisableTorchFunction():
            lost = [(t, _not_finite(t, masks=False)) for t in floating(output)]
            differs = _differs(first) if self.several and first is not None else None
        sources = self.streams.sources([tensor for tensor, count in lost if count])
        main = frozenset() if first is None else self.streams.sources([first])
        self.ends = Ends(0, sum(count for _, count in lost), sources, main, differs)


def _check_measured(trace: Trace) -> None:
    """Refuse to call a model healthy of which nothing was seen."""
    notes = {row.note for row in trace if not row.signal.count}
    if "empty output" in notes and not any(row.signal.count for row in trace):
        raise ValueError(
            "nothing was measured: the inputs have no entries; pass a batch of 32 different "
            "inputs or more"
        )


def _differs(tensor: Tensor) -> bool | None:
    """Tell whether the rows of a tensor differ by more than rounding; None if it has but one."""
    odd = tensor.is_complex() or transformed(tensor) or not is_plain(tensor)
    if odd or tensor.dim() == 0 or len(tensor) < 2 or not tensor.numel():
        return None
    known = tensor.detach().double()
    return not torch.allclose(known, known[:1], rtol=_ROUNDING, atol=0.0, equal_nan=True)


def _not_finite(tensor: Tensor, masks: bool = True) -> int:
    """Count NaN, +inf, and -inf if asked for masks as well; in a sparse tensor nothing."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return 0  # torch cannot tell
    tensor = tensor.detach()
    lost = ~tensor.isfinite() if masks else tensor.isnan() | tensor.isposinf()
    return int(lost.sum())


def _calls(trace: Trace, seen: list[Seen]) -> Iterator[tuple[Layer, nn.Module, Facts]]:
    for row, each in zip(trace, seen, strict=True):
        if isinstance(each.forward, Facts):
            entering, apart = each.entered or (None, None)
            facts = replace(each.forward, entering=entering, entering_spread=apart)
            yield row, each.module, facts


def _told(flow: Flow) -> Iterator[tuple[Finding, bool]]:
    """Join verdicts and causes, one finding a layer and verdict."""
    known = causes(flow)
    hopeless = {number for number, cause in known.items() if cause.grave}
    said: set[int] = set()
    silent = {n for n, cause in known.items() if cause.name == "all zeros" and not cause.grave}
    for verdict in verdicts(flow, hopeless, silent):
        node, row = verdict.node, verdict.node.row
        cause = None if verdict.cause else known.get(node.number)
        if cause and not _explains(cause, verdict.word):
            cause = None
        name, text, lesson = verdict.cause, verdict.sentence, verdict.lesson
        if cause:
            said.add(node.number)
            name, text, lesson = cause.name, f"{text}; {cause.sentence}", cause.lesson
        grave = verdict.grave or bool(cause and cause.grave)
        layer = row.name if row else ""
        yield Finding(layer, verdict.word, name, text + ".", lesson), grave
    for number, cause in known.items():
        row = flow.nodes[number].row
        if number not in said and row:
            found = Finding(row.name, cause.verdict, cause.name, cause.sentence + ".", cause.lesson)
            yield found, cause.grave


def _explains(cause: Cause, word: str) -> bool:
    """Tell whether a cause may have that effect.

    Weights that are too small make nothing larger, and a mean makes an output neither larger nor
    smaller than what enters. What is not finite was made by no recipe.
    """
    if word == "not finite":
        return cause.grave
    small = cause.name in {"all zeros", "default init", "gain missing"}
    by_mean = cause.name == OF_INPUT and word in {"explodes", "vanishes"}
    return not by_mean and not (small and word.endswith("explodes"))


def _never_called(trace: Trace) -> Iterator[tuple[Finding, bool]]:
    for row in trace:
        if row.note == "never called" and row.weight:
            text = "it has weights, but this input never reaches it."
            yield Finding(row.name, "never called", "", text, "15, your-network"), False


def _trained(measured: Trace) -> Iterator[tuple[Finding, bool]]:
    """Say so where most layers are not what their weights' moments let expect."""
    known = [(row, row.band) for row in measured if row.band and row.fan_in]
    off = [row for row, (low, high) in known if not low <= row.signal.second_moment <= high]
    if len(off) >= 3 and 2 * len(off) > len(known):
        text = (
            f"{len(off)} of {len(known)} layers are outside their bands: these weights are not "
            "random, and what was measured counts, not what was predicted."
        )
        yield Finding("", "not random", "", text, "15, your-network"), False


def _both(trace: Trace, seen: list[Seen], flow: Flow) -> tuple[Trace, Trace]:
    """Put bands into the measured rows, and expectations into rows of their own."""
    gradients, tied = _expected_gradients(flow), _tied(flow)
    measured, predicted = [], []
    for row, each in zip(trace, seen, strict=True):
        facts = each.forward if isinstance(each.forward, Facts) else None
        own = tied.get(facts.node, "") if facts else ""
        expected = facts.expected if facts and not own else None
        band = expected.band if expected else None
        law = expected.signal if expected else Moments(math.nan, math.nan)
        note = "; ".join(filter(None, (own, row.note))) or ("" if expected else "no theory")
        grad = gradients.get(facts.node) if facts else None
        measured.append(replace(row, band=band))
        predicted.append(
            replace(row, signal=law, band=band, spread=None, zeros=None, grad=grad, note=note)
        )
    return Trace(tuple(measured)), Trace(tuple(predicted))


def _tied(flow: Flow) -> dict[int, str]:
    """Find layers whose input another layer made with their own weight: no draw is fresh there."""
    first: dict[Any, Node] = {}
    found: dict[int, str] = {}
    for node in flow:
        weight = getattr(node.module, "weight", None)
        if not isinstance(weight, nn.Parameter) or not weight.numel():
            continue
        # By its memory: a decoder may have its encoder's weight transposed.
        other = first.setdefault((weight.device, weight.data_ptr()), node)
        met = other.number in flow.ancestors(node.number) and other.module is not node.module
        if met and node.multiplies and other.row:
            found[node.number] = f"tied to {other.row.name}"
    return found


def _expected_gradients(flow: Flow) -> dict[int, Moments]:
    """Expect the gradient at an output from the measured one behind the layer that takes it.

    Σ g² over a layer's inputs is E[w²]·products·Σ g² over its outputs.
    """
    found: dict[int, Moments] = {}
    for node in flow:
        facts, row = node.facts, node.row
        if not (node.multiplies and facts and row and row.grad and row.weight and facts.expected):
            continue
        if len(node.sources) != 1 or facts.expected.products is None or facts.entering is None:
            continue
        (source,) = node.sources
        if source in flow.nodes and flow.takers(source) == 1:
            products = facts.expected.products * row.grad.count
            size = row.weight.second_moment * products * row.grad.second_moment
            found[source] = Moments(0.0, size / facts.entering.count)
    return found
