"""Draw numbers by layer: plain sequences in, a Figure out."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Band = tuple[float, float] | None

# More names than this overlap under the axis; numbers then stand for them.
_MOST_NAMES = 8


def by_layer(
    series: Mapping[str, Sequence[float]],
    bands: Mapping[str, Sequence[Band]] | None = None,
    names: Sequence[str] = (),
    quantity: str = "second moment",
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw one or several series of numbers by layer, on a log axis.

    A value that a log axis cannot hold is marked where it first appears: at the upper edge
    "inf" or "NaN", where the signal ended; at the lower edge "0".

    Args:
        series: label to one number a layer, in order; drawn from layer 1.
        bands: label (of one of the series) to one (low, high) or None a layer, shaded.
        names: names of the layers; drawn only when few.
        quantity: what the numbers are: the label of the axis.
        ax: where to draw; by default a new Figure of its own, unknown to pyplot.

    Returns:
        The Figure: `.savefig("a.svg")`, or `.axes[0].set_title(…)`.

    Raises:
        ImportError: matplotlib is not installed.

    Examples:
        >>> figure = by_layer({"measured": [1.0, 784.0, float("inf")]})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['inf']
    """
    axes = _new_axes() if ax is None else ax
    axes.set_yscale("log")
    for label, values in series.items():
        _draw(axes, label, values, (bands or {}).get(label, ()))
    axes.set_xlabel("layer")
    axes.set_ylabel(quantity)
    if 0 < len(names) <= _MOST_NAMES:
        axes.set_xticks(range(1, len(names) + 1), names)
    if len(series) > 1:
        axes.legend()
    figure: Any = axes.figure
    return figure.figure  # of a SubFigure the Figure, of a Figure itself


def _new_axes() -> "Axes":
    """Make a Figure without pyplot, whose global list of figures would keep it alive."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only who draws needs it
    except ImportError as error:
        raise ImportError(
            'drawing needs matplotlib, which is not installed: pip install "handwave[plot]"'
        ) from error
    return Figure(layout="constrained").subplots()


def _draw(ax: "Axes", label: str, values: Sequence[float], band: Sequence[Band]) -> None:
    """Draw one series, its band, and a mark where it leaves the axis."""
    layers = range(1, len(values) + 1)
    # NaN leaves a gap in the line; a log axis has no place for 0 and inf.
    held = [v if math.isfinite(v) and v > 0 else math.nan for v in values]
    (line,) = ax.plot(layers, held, marker="o", label=label)
    if band:
        low, high = zip(*(edge or (math.nan, math.nan) for edge in band), strict=True)
        ax.fill_between(
            range(1, len(band) + 1), low, high, color=line.get_color(), alpha=0.25, lw=0
        )
    for word in ("inf", "NaN", "0"):
        place = next((k for k, v in zip(layers, values, strict=True) if _word(v) == word), None)
        if place is not None:
            _mark(ax, place, word, line.get_color())
    ax.autoscale_view()


def _mark(ax: "Axes", place: int, word: str, color: Any) -> None:
    """Write a word at the edge of the axis to which the signal went."""
    height, align = (0.02, "bottom") if word == "0" else (0.98, "top")
    where = ax.get_xaxis_transform()
    ax.text(place, height, word, color=color, transform=where, ha="center", va=align, weight="bold")
    # Text widens no axis by itself; and it needs room between the line and the edge.
    ax.update_datalim([(place, 1.0)], updatey=False)
    ax.margins(y=0.15)


def _word(value: float) -> str:
    """Name what a log axis cannot hold."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf"
    return "" if value else "0"
