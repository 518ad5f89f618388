"""Traces: finding rows, saying them as text, JSON and HTML."""

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from handwave import Layer, Moments, Trace


def row(name, var=1.0, **more):
    given = {"shape": (8, 3), "dtype": torch.float32, "fan_in": 3.0, "fan_out": 3.0, "weight": None}
    signal = Moments(0.0, var, 24)
    return Layer(**{"name": name, "kind": "Linear", "signal": signal, **given, **more})


@pytest.fixture
def trace():
    return Trace((row("block.fc"), row("block.fc#2", 784.0), row("head", math.inf)))


def test_rows_are_found_by_name_and_by_order(trace):
    assert len(trace) == 3
    assert [layer.name for layer in trace] == ["block.fc", "block.fc#2", "head"]
    assert trace["block.fc#2"] is trace.layers[1]
    assert trace.coverage == 0.99


def test_a_missing_name_lists_its_neighbours(trace):
    with pytest.raises(KeyError, match=r"no layer 'block.f'; near it: 'block.fc', 'block.fc#2'"):
        trace["block.f"]
    with pytest.raises(KeyError, match="near it: none"):
        Trace(())["x"]


def test_a_position_is_not_a_name(trace):
    with pytest.raises(TypeError, match=r"got 0; trace.layers\[i\] is by position"):
        trace[0]


def test_the_table_stands_in_columns(trace):
    assert str(trace).splitlines() == [
        "layer       kind    shape  second moment",
        "block.fc    Linear  8x3                1",
        "block.fc#2  Linear  8x3              784",
        "head        Linear  8x3              inf",
    ]


def test_the_table_shows_only_columns_that_say_something():
    full = row(
        "a", band=(0.9, 1.1), spread=0.5, zeros=0.25, grad=Moments(0, 2.0, 4), note="no theory"
    )
    assert str(Trace((full,))).splitlines()[0] == (
        "layer  kind    shape  second moment  low  high  spread  zeros  gradient  note"
    )


def test_an_empty_trace_prints_and_draws():
    assert str(Trace(())) == "layer  kind  shape"
    assert Trace(()).plot()


def test_to_dict_is_strict_json():
    rows = (row("a", math.inf, weight=Moments(0.0, 1.0, 9)), row("b", math.nan, zeros=0.5))
    found = json.loads(json.dumps(Trace(rows).to_dict(), allow_nan=False))
    first, second = found["layers"]
    assert found["coverage"] == 0.99
    assert first["signal"] == {"mean": 0.0, "var": "inf", "count": 24, "nonfinite": 0}
    assert first["weight"]["count"] == 9
    assert (first["dtype"], first["shape"]) == ("float32", [8, 3])
    assert (second["signal"]["var"], second["zeros"], second["band"]) == ("nan", 0.5, None)
    assert list(first) == list(Layer.__dataclass_fields__)


def test_minus_infinity_is_said_as_well():
    layer = row("a", signal=Moments(-math.inf, math.inf, 2, 1))
    assert Trace((layer,)).to_dict()["layers"][0]["signal"]["mean"] == "-inf"


def test_html_holds_the_same_cells_and_escapes_them(trace):
    page = Trace((*trace.layers, row("<script>")))._repr_html_()
    assert page.count("<tr>") == 5
    assert "<th>second moment</th>" in page
    assert "<td>&lt;script&gt;</td>" in page
    assert "<script>" not in page


def test_a_plot_shows_what_was_measured(trace):
    figure = trace.plot()
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    assert np.asarray(ax.lines[0].get_ydata())[:2].tolist() == [1.0, 784.0]
    assert [t.get_text() for t in ax.texts] == ["inf"]


@pytest.mark.parametrize(
    ("ax", "came"), [("x", "str"), (Figure(), "Figure"), (Figure().subplots(2), "ndarray")]
)
def test_a_plot_is_drawn_on_one_axes_only(trace, ax, came):
    words = f"ax must be one Axes of matplotlib's, got {came}; take it from plt.subplots.*, or"
    with pytest.raises(TypeError, match=words):
        trace.plot(ax=ax)


def test_a_plot_shows_gradients_and_bands_where_there_are_any():
    rows = (row("a", grad=Moments(0, 2.0, 4), band=(0.5, 2.0)), row("b"))
    (ax,) = Trace(rows).plot().axes
    assert [line.get_label() for line in ax.lines] == ["signal", "gradient"]
    assert len(ax.collections) == 1


def test_a_layer_that_was_never_called_is_not_drawn_as_an_end():
    unused = row("unused", signal=Moments(math.nan, math.nan), note="never called")
    trace = Trace((row("a"), unused))
    assert not trace.plot().axes[0].texts
    assert str(trace).splitlines()[2].split() == ["unused", "Linear", "8x3", "never", "called"]


def test_rows_and_traces_cannot_be_changed(trace):
    with pytest.raises(AttributeError):
        trace.layers[0].name = "other"
