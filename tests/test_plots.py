"""Plots: what is drawn, read back from the axes."""

import builtins
import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from cycler import cycler
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

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


def test_several_series_have_a_legend_and_their_own_colours():
    figure = by_layer({"measured": [1.0, 2.0], "predicted": [1.0, 1.0]})
    (ax,) = figure.axes
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["measured", "predicted"]
    assert len({to_hex(line.get_color()) for line in ax.lines}) == 2


@pytest.mark.parametrize(
    ("ending", "word", "edge"),
    [(math.inf, "inf", 0.98), (-math.inf, "inf", 0.98), (math.nan, "NaN", 0.98), (0.0, "0", 0.02)],
)
def test_where_the_signal_ended_is_marked_once(ending, word, edge):
    figure = by_layer({"measured": [1.0, 784.0, ending, ending]})
    (ax,) = figure.axes
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [(word, (3, edge))]
    assert held(ax.lines[0]) == [(1, 1.0), (2, 784.0)]
    low, high = ax.get_xlim()
    assert low < 1
    assert high > 3


def test_a_series_with_nothing_to_draw_is_still_a_figure(tmp_path):
    by_layer({"measured": [math.nan, math.inf, 0.0]}).savefig(tmp_path / "ended.svg")
    by_layer({"measured": []}).savefig(tmp_path / "empty.svg")
    for name in ("ended.svg", "empty.svg"):
        assert "</svg>" in (tmp_path / name).read_text()


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
    many = by_layer({"a": [1.0] * 50}, names=[f"fc{k}" for k in range(50)]).axes[0]
    assert not any(t.get_text().startswith("fc") for t in many.get_xticklabels())


def test_axes_of_the_caller_are_drawn_in_and_their_figure_comes_back():
    figure = Figure()
    ax = figure.subplots()
    assert by_layer({"a": [1.0]}, ax=ax) is figure
    inner = figure.subfigures(1, 2, squeeze=False)[0, 0].subplots()
    assert by_layer({"a": [1.0]}, ax=inner) is figure


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
    with pytest.raises(ImportError, match=r'not installed: pip install "handwave\[plot\]"'):
        by_layer({"a": [1.0]})
