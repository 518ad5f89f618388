"""Draw numbers by layer: plain sequences in, a Figure out."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Band = tuple[float, float] | None

# More names than this overlap under the axis; numbers then stand for them.
_MOST_NAMES = 8
# Names that are longer in all, in characters, stand on a slant; one longer than this is cut.
_MOST_LETTERS = 48
_LONGEST_NAME = 18
# More points than this touch each other at their full size.
_MOST_POINTS = 60
# How far, in layers, a prediction reaches to either side of the first and last layer it is for.
_REACH = 0.35
# Powers of ten: from here on they are far, and so wide an axis shows few of them.
_FAR = 100
_FEW = (0.7, 1.7)


def by_layer(
    series: Mapping[str, Sequence[float | None]],
    bands: Mapping[str, Sequence[Band]] | None = None,
    names: Sequence[str] = (),
    quantity: str = "second moment",
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw one or several series of numbers by layer, on a log axis.

    Where a series first leaves the axis (a gradient: on its way down from the last layer), a
    word says so: at the upper edge "inf" or "NaN" ("inf, NaN" where one follows the other), at
    the lower edge "0". A series whose label ends in "predicted" is dashed; "predicted" has the
    colour of "measured", "gradient, predicted" that of "gradient, measured".

    Args:
        series: label to one number a layer, in order, drawn from layer 1; None where there is
            none, and in a prediction NaN as well: there is no theory.
        bands: label (of one of the series) to one (low, high) or None a layer, shaded.
        names: names of the layers; drawn only when few.
        quantity: what the numbers are: the label of the axis.
        ax: where to draw; by default a new Figure of its own, unknown to pyplot.

    Returns:
        The Figure: `.savefig("a.svg")`, or `.axes[0].set_title(…)`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: ax is no Axes.

    Examples:
        >>> figure = by_layer({"measured": [1.0, 784.0, float("inf")]})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['inf']
    """
    axes = _new_axes() if ax is None else _checked(ax)
    axes.set_yscale("log")
    # Held until all is drawn: on the way, matplotlib's own room can leave the range of floats.
    limits_are_free = axes.get_autoscaley_on()
    axes.set_autoscaley_on(False)
    colors: dict[str, Any] = {}
    for label, values in series.items():
        color = colors.get(_subject(label))
        line = _draw_line(axes, label, values, color)
        colors[_subject(label)] = line.get_color()
        _draw_band(axes, (bands or {}).get(label, ()), line.get_color())
        _mark_ends(axes, label, values, line.get_color())
    axes.set_xlabel("layer")
    axes.set_ylabel(quantity)
    _name_layers(axes, names)
    if limits_are_free:
        _make_room(axes)
    axes.autoscale_view()
    figure: Any = axes.figure
    if len(series) > 1 and ax is None:
        # Beside the axes, where no line can run through it; only a figure of our own has room.
        figure.legend(loc="outside lower center", ncols=2)
    elif len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend()
    return figure.figure  # of a SubFigure the Figure, of a Figure itself


def _new_axes() -> "Axes":
    """Make a Figure without pyplot, whose global list of figures would keep it alive."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only who draws needs it
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib, which is not installed: pip install matplotlib"
        ) from error
    figure = Figure(layout="constrained")
    # A notebook shows it, also where nobody has imported pyplot, which teaches notebooks to.
    figure.__dict__["_repr_png_"] = partial(_png, figure)
    return figure.subplots()


def _checked(ax: "Axes") -> "Axes":
    """Return the caller's axes, unless they are a Figure, an array of them or no axes at all."""
    if not hasattr(ax, "set_yscale"):
        raise TypeError(
            f"ax must be one Axes of matplotlib's, got {type(ax).__name__}; take it from "
            "plt.subplots(), or leave it out for a new Figure"
        )
    return ax


def _png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _is_prediction(label: str) -> bool:
    return label.endswith("predicted")


def _subject(label: str) -> str:
    """Return what a series is about, which decides its colour."""
    return label.removesuffix("measured").removesuffix("predicted").rstrip(", ")


def _draw_line(ax: "Axes", label: str, values: Sequence[float | None], color: Any) -> Any:
    """Draw what a log axis can hold; elsewhere the line has a gap."""
    held = [v if v is not None and math.isfinite(v) and v > 0 else math.nan for v in values]
    style: dict[str, Any] = {"label": label, "color": color}
    if _is_prediction(label):
        layers, held = _reaching([None if math.isnan(v) else (v,) for v in held])
        (line,) = ax.plot(layers, *held, linestyle="--", zorder=2.1, **style)
        return line
    (line,) = ax.plot(range(1, len(held) + 1), held, marker="o", zorder=2.2, **style)
    if len(held) > _MOST_POINTS:
        line.set_markersize(line.get_markersize() * 0.6)
        line.set_linewidth(line.get_linewidth() * 0.6)
    return line


def _draw_band(ax: "Axes", band: Sequence[Band], color: Any) -> None:
    """Shade between low and high, wherever both are known."""
    if band:
        known = [edges if edges and all(map(math.isfinite, edges)) else None for edges in band]
        layers, (low, high) = _reaching(known, numbers=2)
        ax.fill_between(layers, low, high, color=color, alpha=0.25, lw=0, zorder=1.9)


def _reaching(
    rows: Sequence[tuple[float, ...] | None], numbers: int = 1
) -> tuple[list[float], list[list[float]]]:
    """Lengthen each run of layers at both ends: a layer between gaps would have no width."""
    points: list[tuple[float, ...]] = [(math.nan,) * (numbers + 1)]
    placed = enumerate(rows, start=1)
    for known, run in itertools.groupby(placed, key=lambda row: row[1] is not None):
        if known:
            inner = [(float(layer), *(row or ())) for layer, row in run]
            (first, *left), (last, *right) = inner[0], inner[-1]
            points += [(first - _REACH, *left), *inner, (last + _REACH, *right), points[0]]
    layers, *columns = map(list, zip(*points, strict=True))
    return layers, columns


def _mark_ends(ax: "Axes", label: str, values: Sequence[float | None], color: Any) -> None:
    """Write, at the edge to which a series went, what a log axis cannot hold."""
    placed = [(_word(label, value), layer) for layer, value in enumerate(values, start=1)]
    if label.startswith("gradient"):
        placed.reverse()
    for edge, ends in ((1, ("inf", "NaN")), (0, ("0",))):
        found = [(word, layer) for word, layer in placed if word in ends]
        if found:
            words = ", ".join(dict.fromkeys(word for word, _ in found))
            _mark(ax, (found[0][1], edge), words, color)


def _word(label: str, value: float | None) -> str:
    """Name what a log axis cannot hold."""
    if value is None or (math.isnan(value) and _is_prediction(label)):
        return ""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf"
    return "" if value else "0"


def _mark(ax: "Axes", place: tuple[int, int], words: str, color: Any) -> None:
    """Write words at an edge, one line further in than the marks that stand there."""
    inwards = -1 if place[1] else 1
    ax.annotate(
        words,
        place,
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, inwards * (2 + _line_height() * len(_marks(ax, place[1])))),
        textcoords="offset points",
        ha="center",
        va="top" if place[1] else "bottom",
        color=color,
        weight="bold",
    )
    # Text widens no axis by itself.
    ax.update_datalim([(place[0], 1.0)], updatey=False)


def _marks(ax: "Axes", edge: int) -> list[Any]:
    """Find the words that stand at an edge, also those of an earlier drawing."""
    return [text for text in ax.texts if getattr(text, "xy", (0, None))[1] == edge]


def _line_height() -> float:
    """Return the height of a line of text in points."""
    from matplotlib import rcParams  # noqa: PLC0415 - only who draws needs it

    return 1.25 * rcParams["font.size"]


def _make_room(ax: "Axes") -> None:
    """Keep lines away from the words at the edges, at the size that the axes have now."""
    lines = max(len(_marks(ax, 0)), len(_marks(ax, 1)))
    if lines:
        figure: Any = ax.figure
        height = ax.get_window_extent().height * 72 / figure.dpi
        # One line more than there are words: a legend will take some of the height.
        share = min((lines + 1) * _line_height() / height, 0.3)
        ax.margins(y=share / (1 - 2 * share))
    drawn = [math.log10(y) for y in (ax.dataLim.minposy, ax.dataLim.y1) if 0 < y < math.inf]
    low, high = min(drawn, default=0.0), max(drawn, default=0.0)
    ax.set_autoscaley_on(max(high, -low) <= _FAR)
    if not ax.get_autoscaley_on():
        room = max(ax.margins()[1] * (high - low), 1)  # pyright: ignore[reportOptionalSubscript]
        _scale_by_hand(ax, low - room, high + room)
    elif _FEW[0] < high - low < _FEW[1] and max(high, -low) < 4:
        _name_more_ticks(ax)


def _scale_by_hand(ax: "Axes", low: float, high: float) -> None:
    """Place ticks by their exponents: those that matplotlib tries leave the range of floats."""
    from matplotlib import ticker  # noqa: PLC0415 - only who draws needs it

    low, high = max(low, -323.0), min(high, 308.25)  # the ends of float64
    ticks = ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True).tick_values(low, high)
    ax.set_ylim(10.0**low, 10.0**high)
    ax.set_yticks([10.0**tick for tick in ticks if low <= tick <= high])


def _name_more_ticks(ax: "Axes") -> None:
    """Write 0.5 and 2 beside 1: between few powers of ten, matplotlib's own names crowd."""
    from matplotlib import ticker  # noqa: PLC0415 - only who draws needs it

    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def _name_layers(ax: "Axes", names: Sequence[str]) -> None:
    """Write names under the axis where they have room, slanted where they have little."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - only who draws needs it

    if not 0 < len(names) <= _MOST_NAMES:
        ax.xaxis.set_major_locator(
            MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
        return
    # The end of a name tells layers apart: encoder.layers.0.self_attn.
    short = [name if len(name) <= _LONGEST_NAME else "…" + name[-_LONGEST_NAME:] for name in names]
    ax.set_xticks(range(1, len(names) + 1), short)
    if len(short) * max(map(len, short)) > _MOST_LETTERS:
        ax.tick_params("x", rotation=30)
        for text in ax.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
