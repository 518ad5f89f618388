"""Plots: what is drawn, read back from the axes."""

import builtins
import itertools
import math
import subprocess
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn

from handwave import measure, predict
from handwave.plots import by_layer


def held(line):
    return [(x, y) for x, y in line.get_xydata() if not math.isnan(y)]


def test_values_stand_over_their_layers_on_a_log_axis():
    figure = by_layer({"measured": [1.0, 10.0, 100.0]}, quantity="spread")
    (ax,) = figure.axes
    (line,) = ax.lines
    assert held(line) == [(1, 1.0), (2, 10.0), (3, 100.0)]
    assert (ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "layer", "spread")
    assert ax.get_legend() is None


def marks(ax):
    """Read the words at the edges: text, (layer, edge)."""
    return [(text.get_text(), text.xy) for text in ax.texts]


def legend_of(figure):
    """Read the legend of a figure or of its only axes."""
    (legend,) = figure.legends or [figure.axes[0].get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def test_series_about_different_things_have_their_own_colours_and_a_legend():
    figure = by_layer({"signal": [1.0, 2.0], "gradient": [1.0, 1.0]})
    (ax,) = figure.axes
    assert legend_of(figure) == ["signal", "gradient"]
    assert len({to_hex(line.get_color()) for line in ax.lines}) == 2


REPORT = {
    "measured": [1.0, 2.0, 4.0],
    "predicted": [1.1, None, 4.1],
    "gradient, measured": [9.0, 8.0, 7.0],
    "gradient, predicted": [9.1, math.nan, 7.1],
}


def test_a_prediction_is_dashed_in_the_colour_of_what_it_predicts():
    figure = by_layer(REPORT)
    (ax,) = figure.axes
    assert legend_of(figure) == list(REPORT)
    signal, expected, grad, grad_expected = ax.lines
    assert signal.get_color() == expected.get_color() != grad.get_color()
    assert grad.get_color() == grad_expected.get_color()
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "-", "--"]
    assert [line.get_marker() for line in ax.lines] == ["o", "None", "o", "None"]


def test_measurements_lie_on_predictions_and_predictions_on_bands():
    ax = by_layer(REPORT, bands={"predicted": [(0.9, 1.2), None, (3.0, 5.0)]}).axes[0]
    signal, expected, *_ = ax.lines
    (band,) = ax.collections
    assert band.get_zorder() < expected.get_zorder() < signal.get_zorder()


def test_a_layer_without_theory_has_no_prediction_and_no_mark():
    ax = by_layer(REPORT).axes[0]
    _, expected, _, grad_expected = ax.lines
    for line, values in ((expected, (1.1, 4.1)), (grad_expected, (9.1, 7.1))):
        assert {y for _, y in held(line)} == set(values)
        assert not any(1.5 < x < 2.5 for x, _ in held(line))
    assert not ax.texts


def test_a_prediction_for_one_layer_alone_is_wide_enough_to_be_seen():
    bands = {"predicted": [None, (0.5, 2.0), None]}
    ax = by_layer({"predicted": [None, 1.0, None]}, bands=bands).axes[0]
    across = [x for x, _ in held(ax.lines[0])]
    (path,) = ax.collections[0].get_paths()
    edges = np.asarray(path.vertices)[:, 0]
    assert max(across) - min(across) == max(edges) - min(edges) == pytest.approx(0.7)
    assert (max(across) + min(across)) / 2 == pytest.approx(2)


@pytest.mark.parametrize("ends", [(0.0, math.inf), (math.inf, math.inf), (1.0, math.nan)])
def test_a_band_without_an_end_is_left_out(ends):
    ax = by_layer({"a": [1.0, 1.0]}, bands={"a": [(0.5, 2.0), ends]}).axes[0]
    (path,) = ax.collections[0].get_paths()
    layers, heights = np.asarray(path.vertices).T
    assert (heights.min(), heights.max()) == (0.5, 2.0)
    assert (layers.min(), layers.max()) == pytest.approx((0.65, 1.35))


@pytest.mark.parametrize(
    ("ending", "word", "edge"),
    [(math.inf, "inf", 1), (-math.inf, "inf", 1), (math.nan, "NaN", 1), (0.0, "0", 0)],
)
def test_where_the_signal_ended_is_marked_once(ending, word, edge):
    figure = by_layer({"measured": [1.0, 784.0, ending, ending]})
    (ax,) = figure.axes
    assert marks(ax) == [(word, (3, edge))]
    assert held(ax.lines[0]) == [(1, 1.0), (2, 784.0)]
    low, high = ax.get_xlim()
    assert low < 1
    assert high > 3


def test_what_follows_an_end_stands_beside_it_and_not_on_it():
    ax = by_layer({"measured": [1.0, math.inf, math.nan, math.nan]}).axes[0]
    assert marks(ax) == [("inf, NaN", (2, 1))]


def test_a_gradient_ends_on_its_way_down():
    series = {"gradient, measured": [math.nan, math.nan, math.inf, 8.0, 2.0], "gradient": [0, 0, 1]}
    ax = by_layer(series).axes[0]
    assert marks(ax) == [("inf, NaN", (3, 1)), ("0", (2, 0))]


def test_a_missing_value_is_no_end():
    ax = by_layer({"gradient": [None, 2.0, None]}).axes[0]
    assert not ax.texts
    assert held(ax.lines[0]) == [(2, 2.0)]


def boxes(figure):
    """The words at the edges, and the points of every line, in pixels as drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (ax,) = figure.axes
    words = [text.get_window_extent(canvas.get_renderer()) for text in ax.texts]
    points = [ax.transData.transform(held(line)) for line in ax.lines if held(line)]
    return words, np.concatenate(points)


@pytest.mark.parametrize("size", [(4.6, 2.9), (6.4, 4.8)])
def test_words_lie_neither_on_each_other_nor_on_a_point(size):
    up, down = [10.0**k for k in range(30)], [0.0] * 30 + [10.0**-k for k in range(30, 0, -1)]
    series = {
        "measured": [*up, *[math.inf] * 20, *[math.nan] * 10],
        "predicted": [*up, *[math.inf] * 30],
        "gradient, measured": down,
        "gradient, predicted": down,
    }
    with mpl.rc_context({"figure.figsize": size}):
        words, points = boxes(by_layer(series))
    assert len(words) == 4
    for box, other in itertools.combinations(words, 2):
        assert not box.overlaps(other)
    for box in words:
        # A marker's radius, and a little more, around each point.
        assert not any(box.padded(4).contains(x, y) for x, y in points)


def test_a_second_drawing_in_the_same_axes_leaves_the_words_of_the_first():
    figure = by_layer({"a": [1.0, math.inf]})
    by_layer({"b": [1.0, math.nan]}, ax=figure.axes[0])
    first, second = boxes(figure)[0]
    assert not first.overlaps(second)


def test_a_series_with_nothing_to_draw_is_still_a_figure(tmp_path):
    by_layer({"measured": [math.nan, math.inf, 0.0]}).savefig(tmp_path / "ended.svg")
    by_layer({"measured": []}).savefig(tmp_path / "empty.svg")
    by_layer({}).savefig(tmp_path / "none.svg")
    for name in ("ended.svg", "empty.svg", "none.svg"):
        assert "</svg>" in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    "values", [(1e-320, 1.7e308, math.inf), (1e300, 1e300), (1e-320, 0.0), (1e99, 1e-99, 0.0)]
)
def test_numbers_at_the_ends_of_float64_are_drawn_with_ticks(values, tmp_path):
    figure = by_layer({"a": values}, bands={"a": [(v / 2, v) if v else None for v in values]})
    figure.savefig(tmp_path / "far.svg")  # any warning is an error here
    ax = figure.axes[0]
    low, high = ax.get_ylim()
    drawn = [y for _, y in held(ax.lines[0])]
    assert low < min(drawn)
    assert max(drawn) < high
    assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 2


def test_limits_that_the_reader_has_set_stay():
    ax = Figure().subplots()
    ax.set(yscale="log", ylim=(0.1, 10))
    by_layer({"a": [1e-3, 1e200, math.inf]}, ax=ax)
    assert ax.get_ylim() == (0.1, 10)


def test_few_powers_of_ten_are_named_in_plain_numbers():
    figure = by_layer({"a": [0.2, 1.0, 5.0]})
    FigureCanvasAgg(figure).draw()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"0.2", "0.5", "1", "2", "5"} <= set(labels)


def test_a_band_is_shaded_where_there_is_one():
    figure = by_layer({"a": [1.0, 1.0, 1.0]}, bands={"a": [(0.5, 2.0), None, (0.25, 4.0)]})
    (ax,) = figure.axes
    (band,) = ax.collections
    heights = [y for path in band.get_paths() for _, y in np.asarray(path.vertices)]
    assert min(heights) == 0.25
    assert max(heights) == 4.0
    assert to_hex(np.asarray(band.get_facecolor())[0]) == to_hex(ax.lines[0].get_color())


def test_few_names_stand_under_the_axis_and_many_do_not():
    few = by_layer({"a": [1.0, 2.0]}, names=["fc1", "fc2"]).axes[0]
    assert [t.get_text() for t in few.get_xticklabels()] == ["fc1", "fc2"]
    assert {t.get_rotation() for t in few.get_xticklabels()} == {0}
    many = by_layer({"a": [1.0] * 50}, names=[f"fc{k}" for k in range(50)]).axes[0]
    assert not any(t.get_text().startswith("fc") for t in many.get_xticklabels())


def test_long_names_are_cut_at_the_front_and_stand_on_a_slant():
    names = [f"encoder.layers.{k}.self_attn" for k in range(8)]
    figure = by_layer({"a": [1.0] * 8}, names=names)
    FigureCanvasAgg(figure).draw()
    texts = figure.axes[0].get_xticklabels()
    assert texts[3].get_text() == "…layers.3.self_attn"
    assert {t.get_rotation() for t in texts} == {30}
    assert figure.axes[0].get_window_extent().height > figure.bbox.height / 2


def test_layers_are_counted_in_whole_numbers():
    for count in (1, 2, 3, 50):
        ticks = by_layer({"a": [1.0] * count}).axes[0].get_xticks()
        assert all(tick == round(tick) for tick in ticks)


def test_many_points_are_smaller_than_few():
    few, many = (by_layer({"a": [1.0] * n}).axes[0].lines[0].get_markersize() for n in (10, 200))
    assert many < few


def test_axes_of_the_caller_are_drawn_in_and_their_figure_comes_back():
    figure = Figure()
    ax = figure.subplots()
    assert by_layer({"a": [1.0]}, ax=ax) is figure
    inner = figure.subfigures(1, 2, squeeze=False)[0, 0].subplots()
    assert by_layer({"a": [1.0]}, ax=inner) is figure


def test_in_axes_of_the_caller_the_legend_stands_inside():
    figure = Figure()
    by_layer(REPORT, ax=figure.subplots())
    assert not figure.legends
    assert legend_of(figure) == list(REPORT)


def test_the_readers_style_decides_every_colour():
    with mpl.rc_context({"axes.prop_cycle": cycler(color=["#123456"])}):
        figure = by_layer({"a": [1.0, math.inf]})
    ax = figure.axes[0]
    assert to_hex(ax.lines[0].get_color()) == to_hex(ax.texts[0].get_color()) == "#123456"


def test_pyplot_is_neither_imported_nor_left_with_figures():
    code = (
        "import sys; from handwave.plots import by_layer\n"
        "assert 'matplotlib' not in sys.modules\n"
        "by_layer({'a': [1.0]}).savefig('/dev/null', format='svg')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="not installed: pip install matplotlib"):
        by_layer({"a": [1.0]})


def test_a_notebook_shows_a_figure_although_nobody_imported_pyplot():
    picture = by_layer({"measured": [1.0, 2.0]})._repr_png_()  # type: ignore[attr-defined]
    assert picture.startswith(b"\x89PNG")


def test_a_prediction_and_a_measurement_in_the_same_axes_can_be_told_apart():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    (ax,) = predict(model, x).plot().axes
    measure(model, x).plot(ax=ax)
    expected, signal, *_ = (line for line in ax.lines if not str(line.get_label()).startswith("_"))
    assert (expected.get_label(), expected.get_linestyle()) == ("signal, predicted", "--")
    assert (signal.get_label(), signal.get_linestyle()) == ("signal", "-")
    legend: Any = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "signal, predicted",
        "signal",
    ]
