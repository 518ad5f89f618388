"""What a signal was, or is expected to be, at every layer."""

import difflib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from handwave.moments import Moments
from handwave.plots import by_layer
from handwave.tables import Column, as_html, as_number, as_text, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Probability with which a band holds.
COVERAGE = 0.99


@dataclass(frozen=True)
class Layer:
    """Say what one call of one layer did to the signal: a row of a `Trace`.

    Args:
        name: where the module stands in the model; a second call of it is `name#2`.
        kind: class of the module.
        shape: shape of the output.
        dtype: dtype of the output.
        fan_in: products behind one output; None where the layer is no sum that `fans` knows.
        fan_out: outputs that one input takes part in; None likewise.
        weight: moments of the weight, averaged over its entries; None without one.
        signal: moments of the output, averaged over every entry: inputs, positions and units.
        band: (low, high) that holds the pooled second moment with probability
            `Trace.coverage`, over draws of the weights; None without theory.
        spread: variance across the inputs of the batch (population), averaged over units and
            positions: what is left of the difference between inputs. None for a single input.
        zeros: share of the output's entries that are exactly zero.
        grad: moments of the gradient with respect to the output, averaged over every entry.
        note: what else is to be said: "no theory", "never called", or, at the last layer that
            has a gradient, that it came from no loss but from noise.

    Examples:
        >>> import handwave
        >>> row = handwave.measure(torch.nn.ReLU(), torch.tensor([[-3.0, 4.0]]))["ReLU"]
        >>> row.shape, row.signal.second_moment, row.zeros
        ((1, 2), 8.0, 0.5)

    References:
        Lesson 6, "fix".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    fan_in: float | None
    fan_out: float | None
    weight: Moments | None
    signal: Moments
    band: tuple[float, float] | None = None
    spread: float | None = None
    zeros: float | None = None
    grad: Moments | None = None
    note: str = ""


@dataclass(frozen=True)
class Trace:
    """Hold one row for every call of a layer, in call order.

    It has a length, can be iterated, and `trace["block.fc"]` finds a row by its name.

    Args:
        layers: the rows.
        coverage: probability with which each row's band holds its second moment.

    Examples:
        >>> trace = Trace((Layer("0", "Linear", (8, 3), None, 3.0, 3.0, None, Moments(0, 1)),))
        >>> trace["0"].signal.second_moment
        1
        >>> print(trace)
        layer  kind    shape  second moment
        0      Linear  8x3                1

    References:
        Lesson 6, "fix".
    """

    layers: tuple[Layer, ...]
    coverage: float = COVERAGE

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> Layer:
        """Find a row by its name.

        Raises:
            KeyError: no row has that name; names like it are listed.
            TypeError: not a name; for a position, index `.layers`.
        """
        if not isinstance(name, str):
            raise TypeError(f"rows are found by name, got {name!r}; trace.layers[i] is by position")
        rows = {layer.name: layer for layer in self.layers}
        if name not in rows:
            near = difflib.get_close_matches(name, rows, n=3, cutoff=0.4) or list(rows)[:3]
            raise KeyError(f"no layer {name!r}; near it: {', '.join(map(repr, near)) or 'none'}")
        return rows[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as dicts, lists, strings and finite numbers: strict JSON.

        Returns:
            {"coverage": …, "layers": [{"name": …, "signal": {"mean": …, "var": …}, …}, …]};
            a number that JSON has no word for is the string "inf", "-inf" or "nan".
        """
        return {"coverage": self.coverage, "layers": [plain(asdict(row)) for row in self.layers]}

    def __str__(self) -> str:
        return as_text(_columns(self.layers), _NUMBERS)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return as_html(_columns(self.layers))

    def plot(self, ax: "Axes | None" = None) -> "Figure":
        """Draw the second moment of every row, and of the gradient where there is one.

        What is predicted is dashed: `predict(…).plot(ax=ax)` and `measure(…).plot(ax=ax)` go into
        one picture.

        Args:
            ax: where to draw; by default a new Figure.

        Returns:
            The Figure: `trace.plot().savefig("a.svg")`.

        Averaged over: every entry of each output.

        Raises:
            ImportError: matplotlib is not installed.
            TypeError: ax is no Axes.
        """
        rows = [layer for layer in self.layers if layer.signal.count or layer.band]
        # Numbers of nothing counted are predicted.
        how = "" if any(row.signal.count for row in rows) else ", predicted"
        signal, gradient = f"signal{how}", f"gradient{how}"
        series: dict[str, list[float | None]] = {signal: [row.signal.second_moment for row in rows]}
        if any(row.grad for row in rows):
            series[gradient] = [row.grad and row.grad.second_moment for row in rows]
        bands = {signal: [row.band for row in rows]} if any(row.band for row in rows) else None
        return by_layer(series, bands, [row.name for row in rows], ax=ax)


# The mean has no column: where it is nothing but noise, no two of its digits agree anywhere.
_NUMBERS = {
    "second moment": lambda row: row.signal.second_moment if _known(row) else None,
    "low": lambda row: row.band and row.band[0],
    "high": lambda row: row.band and row.band[1],
    "spread": lambda row: row.spread,
    "zeros": lambda row: row.zeros,
    "gradient": lambda row: row.grad and row.grad.second_moment,
}


def _known(row: Layer) -> bool:
    """Tell a signal from the placeholder of a layer that was never called."""
    return bool(row.signal.count) or not math.isnan(row.signal.mean)


def _columns(layers: tuple[Layer, ...]) -> list[Column]:
    """Return the columns in which something stands."""
    columns = [
        ("layer", *(row.name for row in layers)),
        ("kind", *(row.kind for row in layers)),
        ("shape", *("x".join(map(str, row.shape)) for row in layers)),
    ]
    further = [(title, *map(as_number, map(of, layers))) for title, of in _NUMBERS.items()]
    further.append(("note", *(row.note for row in layers)))
    return columns + [column for column in further if any(column[1:])]
