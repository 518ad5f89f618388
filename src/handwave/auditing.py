"""Hold what was measured against what each layer's own input lets expect."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from handwave.causes import causes
from handwave.expecting import expect
from handwave.flows import Facts, Flow
from handwave.measuring import Seen, record
from handwave.moments import Moments
from handwave.plots import by_layer
from handwave.running import Inputs, floating, nothing_left_behind
from handwave.streams import Streams
from handwave.tables import Column, as_html, as_number, as_text, plain
from handwave.totals import quick_moments, spread
from handwave.traces import Layer, Trace
from handwave.verdicts import verdicts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Finding:
    """Hold one thing that is worth saying.

    Args:
        layer: name of the row; empty for the model as a whole.
        verdict: what happens: "explodes", "vanishes", "gradient explodes", "gradient vanishes",
            "dead units", "saturated", "collapsed", "overflows", "overflows in float16", "never
            initialised", "symmetric", "off target", "never called", "not random".
        cause: why, where it can be told; several with "or" where they give the same number.
        sentence: both in one plain sentence.
        lesson: that explains it, number and name.

    Examples:
        >>> Finding("0", "vanishes", "default init", "a third is left.", "12, defaults").cause
        'default init'
    """

    layer: str
    verdict: str
    cause: str
    sentence: str
    lesson: str


@dataclass(frozen=True)
class Report:
    """Hold what an audit found; prints as a table with its findings.

    Args:
        measured: the trace of `measure`; where there is a prediction, its band is in the row.
        predicted: the same rows with what each layer's own input let expect; without theory the
            moments are NaN and the note says so. `grad` is the gradient that the measured one
            of the next layer lets expect.
        findings: all that is worth saying, in call order.
        failures: those that would stop training.

    Examples:
        >>> report = audit(nn.Sequential(nn.Linear(64, 64)), torch.randn(32, 64))
        >>> report.ok, report.findings[0].cause
        (True, 'default init')

    References:
        Lesson 15, "your-network".
    """

    measured: Trace
    predicted: Trace
    findings: tuple[Finding, ...]
    failures: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Tell whether there are no failures."""
        return not self.failures

    def raise_for_failures(self) -> None:
        """Do nothing if all is well: for test suites.

        Raises:
            AssertionError: there are failures; each has its line.
        """
        if self.failures:
            lines = [f"the audit found {_count(self.failures, 'failure')}:"]
            raise AssertionError("\n".join([*lines, *_lines(self.failures)]))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as strict JSON can hold it.

        Returns:
            {"ok": …, "measured": {…}, "predicted": {…}, "findings": […], "failures": […]}; a
            number that JSON has no word for is the string "inf", "-inf" or "nan".
        """
        return {
            "ok": self.ok,
            "measured": self.measured.to_dict(),
            "predicted": self.predicted.to_dict(),
            "findings": [plain(asdict(finding)) for finding in self.findings],
            "failures": [plain(asdict(finding)) for finding in self.failures],
        }

    def __str__(self) -> str:
        return "\n".join([as_text(_columns(self), _NUMBERS), "", *_verdict_lines(self)])

    def _repr_html_(self) -> str:
        """Return table and findings for a notebook."""
        said = as_html([("findings", *_verdict_lines(self))])
        return as_html(_columns(self)) + said

    def plot(self, ax: "Axes | None" = None) -> "Figure":
        """Draw the second moments, measured and predicted with bands, of signal and gradient.

        Args:
            ax: where to draw; by default a new Figure.

        Returns:
            The Figure: `report.plot().savefig("a.svg")`.

        Averaged over: every entry of each output.

        Raises:
            ImportError: matplotlib is not installed.
        """
        pairs = [
            (a, b) for a, b in zip(self.measured, self.predicted, strict=True) if a.signal.count
        ]
        series: dict[str, list[float | None]] = {
            "measured": [a.signal.second_moment for a, _ in pairs],
            "predicted": [b.signal.second_moment if b.band else None for _, b in pairs],
        }
        if any(a.grad for a, _ in pairs):
            series["gradient, measured"] = [a.grad and a.grad.second_moment for a, _ in pairs]
            series["gradient, predicted"] = [b.grad and b.grad.second_moment for _, b in pairs]
        bands = {"predicted": [b.band for _, b in pairs]}
        return by_layer(series, bands, [a.name for a, _ in pairs], ax=ax)


def audit(model: nn.Module, inputs: Inputs, backward: bool = True) -> Report:
    """Run the model once, and say which layers are wrong, why, and what to read about it.

    Every layer with weights is predicted from the input that it really received, by its weights'
    mean and variance alone, and held against what came out; scales are followed from layer to
    layer, and anew behind each normalization. Nothing is left behind, as by `measure`.

    Args:
        model: any module, in the mode that it is in; its last layer is the last that it calls.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments; a
            batch of 32 different inputs or more tells most.
        backward: look at gradients too, of a standard normal one that enters from above.

    Returns:
        The report; `.ok` means no failures.

    Averaged over: as `measure`; predictions over draws of the layer's weights.

    Assumes: the network is fresh. Trained weights have more structure than two moments: where
    most of the layers leave their bands the report says "not random", and causes are guesses.

    Raises:
        TypeError: model or inputs are of another kind.
        ValueError: a lazy layer has no weights yet; there is nothing to differentiate.

    Examples:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> _ = nn.init.zeros_(model[0].weight)
        >>> report = audit(model, torch.randn(32, 64))
        >>> [(finding.layer, finding.cause) for finding in report.failures]
        [('0', 'all zeros')]

    References:
        Lesson 15, "your-network".
    """
    witness = _Witness()
    with witness.streams:
        trace, seen = record(model, inputs, backward=backward, look=witness)
    flow = Flow(_calls(trace, seen), witness.streams.sums)
    with nothing_left_behind(model):  # a spectral norm takes a step each time it is looked at
        findings = [*_told(flow), *_never_called(trace), *_trained(trace, seen)]
    order = {row.name: place for place, row in enumerate(trace)}
    findings.sort(key=lambda pair: order.get(pair[0].layer, len(order)))
    measured, predicted = _both(trace, seen, flow)
    return Report(
        measured,
        predicted,
        tuple(finding for finding, _ in findings),
        tuple(finding for finding, grave in findings if grave),
    )


class _Witness:
    """Look at each call while the model runs: what came in, and where it came from."""

    def __init__(self) -> None:
        self.streams = Streams()

    def forward(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Facts:
        """Take down the facts of one call."""
        entering = next(floating((args, kwargs)), None)
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        sources = self.streams.sources(given)
        made = output.detach()
        with torch._C.DisableTorchFunction():
            known = None if entering is None or not entering.numel() else entering.detach()
            moments = None if known is None else quick_moments(known, 1e-6)
            axis = 1 if made.dim() == 3 and not getattr(module, "batch_first", True) else 0
            facts = Facts(
                node=0,
                sources=sources,
                entering=moments,
                entering_spread=None
                if known is None or moments is None
                else spread(known, axis, moments),
                expected=expect(module, args, kwargs),
                largest=float(made.abs().max()),
                at_the_ends=_at_the_ends(module, made),
            )
        return replace(facts, node=self.streams.born([output]))

    def backward(self, module: nn.Module, grad: Tensor) -> None:
        """See nothing more in a gradient than its moments."""


# Where activations end, and how near counts: there the slope is below 2 % of its largest.
_ENDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-0.99, 0.99),
    nn.Sigmoid: (0.005, 0.995),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Softsign: (-0.86, 0.86),
}


def _at_the_ends(module: nn.Module, output: Tensor) -> float:
    """Return the share of entries at an end of the activation's range."""
    if isinstance(module, nn.Hardtanh):  # ReLU6 too, whose lower end is that of every ReLU
        low, high = module.min_val, module.max_val
        low = -math.inf if isinstance(module, nn.ReLU6) else low
    elif type(module) in _ENDS:
        low, high = _ENDS[type(module)]
    else:
        return 0.0
    outside = (output <= low) | (output >= high)
    return float(outside.double().mean())


def _calls(trace: Trace, seen: list[Seen]) -> Iterator[tuple[Layer, nn.Module, Facts]]:
    for row, each in zip(trace, seen, strict=True):
        if isinstance(each.forward, Facts):
            yield row, each.module, each.forward


def _told(flow: Flow) -> Iterator[tuple[Finding, bool]]:
    """Join verdicts and causes, one finding a layer and verdict."""
    known = causes(flow)
    hopeless = {number for number, cause in known.items() if cause.grave}
    said: set[int] = set()
    silent = {n for n, cause in known.items() if cause.name == "all zeros" and not cause.grave}
    for verdict in verdicts(flow, hopeless, silent):
        node, row = verdict.node, verdict.node.row
        cause = None if verdict.cause else known.get(node.number)
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


def _never_called(trace: Trace) -> Iterator[tuple[Finding, bool]]:
    for row in trace:
        if row.note == "never called" and row.weight:
            text = "it has weights, but this input never reaches it."
            yield Finding(row.name, "never called", "", text, "15, your-network"), False


def _trained(trace: Trace, seen: list[Seen]) -> Iterator[tuple[Finding, bool]]:
    """Say so where most layers are not what their weights' moments let expect."""
    pairs = [
        (row, each.forward.expected)
        for row, each in zip(trace, seen, strict=True)
        if isinstance(each.forward, Facts) and each.forward.expected and row.fan_in
    ]
    off = [
        row
        for row, expected in pairs
        if not expected.band[0] <= row.signal.second_moment <= expected.band[1]
    ]
    if len(off) >= 3 and 2 * len(off) > len(pairs):
        text = (
            f"{len(off)} of {len(pairs)} layers are outside their bands: these weights are not "
            "random, and what was measured counts, not what was predicted."
        )
        yield Finding("", "not random", "", text, "15, your-network"), False


def _both(trace: Trace, seen: list[Seen], flow: Flow) -> tuple[Trace, Trace]:
    """Put bands into the measured rows, and expectations into rows of their own."""
    numbers = {id(each): each.forward for each in seen if isinstance(each.forward, Facts)}
    gradients = _expected_gradients(flow, seen)
    measured, predicted = [], []
    for row, each in zip(trace, seen, strict=True):
        facts = numbers.get(id(each))
        expected = facts.expected if facts else None
        band = expected.band if expected else None
        law = expected.signal if expected else Moments(math.nan, math.nan)
        note = row.note or ("" if expected else "no theory")
        grad = gradients.get(facts.node) if facts else None
        measured.append(replace(row, band=band))
        predicted.append(
            replace(row, signal=law, band=band, spread=None, zeros=None, grad=grad, note=note)
        )
    return Trace(tuple(measured)), Trace(tuple(predicted))


def _expected_gradients(flow: Flow, seen: list[Seen]) -> dict[int, Moments]:
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
        if source in flow.nodes and sum(source in n.sources for n in flow) == 1:
            products = facts.expected.products * row.grad.count
            size = row.weight.second_moment * products * row.grad.second_moment
            found[source] = Moments(0.0, size / facts.entering.count)
    return found


_NUMBERS = {"expected", "low", "high", "measured", "gradient", "expected gradient"}


def _columns(report: Report) -> list[Column]:
    """Lay the two traces side by side."""
    pairs = list(zip(report.measured, report.predicted, strict=True))
    wrong = {finding.layer: finding for finding in reversed(report.findings)}

    def numbers(title: str, values: list[float | None]) -> Column:
        return (title, *map(as_number, values))

    columns = [
        ("layer", *(a.name for a, _ in pairs)),
        ("kind", *(a.kind for a, _ in pairs)),
        numbers("expected", [b.signal.second_moment if b.band else None for _, b in pairs]),
        numbers("low", [b.band and b.band[0] for _, b in pairs]),
        numbers("high", [b.band and b.band[1] for _, b in pairs]),
        numbers("measured", [a.signal.second_moment if a.signal.count else None for a, _ in pairs]),
        numbers("gradient", [a.grad and a.grad.second_moment for a, _ in pairs]),
        ("finding", *(_short(wrong.get(a.name)) or b.note for a, b in pairs)),
    ]
    return [column for column in columns if any(column[1:])]


def _short(finding: Finding | None) -> str:
    return "" if finding is None else ", ".join(filter(None, (finding.verdict, finding.cause)))


def _verdict_lines(report: Report) -> list[str]:
    """Say what was found, failures first."""
    rest = [finding for finding in report.findings if finding not in report.failures]
    head = "healthy: no failures" if report.ok else _count(report.failures, "failure")
    lines = [head, *_lines(report.failures)]
    return [*lines, _count(rest, "remark"), *_lines(rest)] if rest else lines


def _lines(findings: Iterable[Finding]) -> list[str]:
    """Write a line a finding; layers of which the same is to be said share one."""
    shared: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.verdict, finding.cause, finding.sentence)
        shared.setdefault(key, []).append(finding)
    return [_line(alike) for alike in shared.values()]


def _count(findings: Any, noun: str) -> str:
    return f"{len(findings)} {noun}{'' if len(findings) == 1 else 's'}"


def _line(alike: list[Finding]) -> str:
    finding = alike[0]
    what = f" ({finding.cause})" if finding.cause else ""
    places = ", ".join(each.layer or "the model" for each in alike)
    return f"  {places}: {finding.verdict}{what}: {finding.sentence} Lesson {finding.lesson}."
