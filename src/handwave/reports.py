"""What an audit found: two traces side by side, and what they say."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from handwave.plots import by_layer
from handwave.tables import Column, as_html, as_number, as_text, plain
from handwave.traces import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Finding:
    """Hold one thing that is worth saying.

    Args:
        layer: name of the row; empty for the model as a whole.
        verdict: what happens: "explodes", "vanishes", "gradient explodes", "gradient vanishes",
            "dead units", "saturated", "collapsed", "overflows", "overflows in float16", "not
            finite", "gradient not finite", "never initialised", "symmetric", "off target", "never
            called", "not random".
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
        predicted: the same rows with what each layer's own input let expect; without theory, and
            where the input was made with the same weight (a tied head), the moments are NaN and
            the note says so. `grad` is the gradient that the measured one of the next layer lets
            expect.
        findings: all that is worth saying, in call order.
        failures: those that would stop training.

    Examples:
        >>> import torch, handwave as hw
        >>> report = hw.audit(torch.nn.Linear(64, 64), torch.randn(32, 64))
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
            AssertionError: there are failures; each is named, in lines that fit a terminal.
        """
        if self.failures:
            lines = [f"the audit found {_count(self.failures, 'failure')}:"]
            raise AssertionError(_folded([*lines, *_lines(self.failures)]))

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
        return f"{as_text(_columns(self), _NUMBERS)}\n\n{_folded(_verdict_lines(self))}"

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
            TypeError: ax is no Axes.
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


# Of a line in a terminal or a page, in characters.
_WIDTH = 84
_NUMBERS = {"expected", "low", "high", "measured", "gradient"}


def _columns(report: Report) -> list[Column]:
    """Lay the two traces side by side."""
    pairs = list(zip(report.measured, report.predicted, strict=True))
    wrong = {finding.layer: finding for finding in reversed(report.findings)}

    def numbers(title: str, values: list[float | None]) -> Column:
        return (title, *map(as_number, values))

    columns = [
        ("layer", *(a.name for a, _ in pairs)),
        ("kind", *(a.kind for a, _ in pairs)),
        ("finding", *(_short(wrong.get(a.name)) or b.note for a, b in pairs)),
        numbers("expected", [b.signal.second_moment if b.band else None for _, b in pairs]),
        numbers("low", [b.band and b.band[0] for _, b in pairs]),
        numbers("high", [b.band and b.band[1] for _, b in pairs]),
        numbers("measured", [a.signal.second_moment if a.signal.count else None for a, _ in pairs]),
        numbers("gradient", [a.grad and a.grad.second_moment for a, _ in pairs]),
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


def _folded(lines: Iterable[str]) -> str:
    """Fold what is longer than a line; the rest of a finding hangs under its first words."""
    folded = textwrap.TextWrapper(
        _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(map(folded.fill, lines))


def _lines(findings: Iterable[Finding]) -> list[str]:
    """Write a line a finding; layers of which the same is to be said share one."""
    shared: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.verdict, finding.cause, finding.sentence)
        shared.setdefault(key, []).append(finding)
    return [_line(alike) for alike in shared.values()]


def _count(findings: Sequence[Finding], noun: str) -> str:
    return f"{len(findings)} {noun}{'' if len(findings) == 1 else 's'}"


def _line(alike: list[Finding]) -> str:
    finding = alike[0]
    what = f" ({finding.cause})" if finding.cause else ""
    places = ", ".join(each.layer or "the model" for each in alike)
    return f"  {places}: {finding.verdict}{what}: {finding.sentence} Lesson {finding.lesson}."
