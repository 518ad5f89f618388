"""Reports: verdicts where they begin, failures apart from remarks, and nothing left behind."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import matplotlib.figure
import pytest
import torch
from torch import nn

import networks as nets
import test_restoration as restoration
from handwave import audit
from handwave.reports import Finding


def spoilt(kind, place, factor, **options):
    """A healthy network, one layer of which is scaled by a factor."""
    torch.manual_seed(0)
    model, x = nets.HEALTHY[kind](**options)
    with torch.no_grad():
        model.get_submodule(place).weight.mul_(factor)
    return audit(model, x)


def failed(report):
    return {(each.layer, each.verdict) for each in report.failures}


@pytest.mark.parametrize("place", ["2", "4", "8"])
@pytest.mark.parametrize("kind", ["relu", "conv"])
def test_a_signal_that_grows_a_hundredfold_explodes_there(kind, place):
    place = "6" if (kind, place) == ("conv", "8") else place
    report = spoilt(kind, place, 100.0)
    assert (place, "explodes") in failed(report)
    assert len([each for each in report.failures if each.verdict == "explodes"]) == 1


@pytest.mark.parametrize("place", ["2", "4", "8"])
@pytest.mark.parametrize("kind", ["relu", "tanh", "conv"])
def test_a_signal_that_shrinks_a_hundredfold_vanishes_there(kind, place):
    place = "6" if (kind, place) == ("conv", "8") else place
    report = spoilt(kind, place, 0.01)
    assert (place, "vanishes") in failed(report)
    assert len([each for each in report.failures if each.verdict == "vanishes"]) == 1


@pytest.mark.parametrize("factor", [0.5, 2.0, 4.0])
def test_a_factor_of_a_few_is_no_failure(factor):
    assert spoilt("relu", "4", factor).ok


def test_a_small_last_layer_is_a_remark():
    report = spoilt("relu", "10", 0.01)
    assert report.ok
    assert ("10", "vanishes") in nets.words(report)


def test_a_norm_behind_makes_a_scale_harmless():
    torch.manual_seed(0)
    layers: list[Any] = [
        part for _ in range(4) for part in (nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())
    ]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        layers[3].weight.mul_(1000)
    assert audit(model, torch.randn(32, 64), backward=False).ok


@pytest.mark.parametrize("place", ["0", "4"])
def test_units_that_never_fire_are_dead(place):
    torch.manual_seed(0)
    model, x = nets.relu_mlp()
    nn.init.constant_(model.get_submodule(place).bias, -20.0)
    report = audit(model, x)
    assert (str(int(place) + 1), "dead units") in failed(report)


@pytest.mark.parametrize("place", ["0", "4", "8"])
@pytest.mark.parametrize(("factor", "grave"), [(8.0, False), (1000.0, True)])
def test_a_tanh_at_its_ends_is_saturated(place, factor, grave):
    report = spoilt("tanh", place, factor)
    found = [each for each in report.findings if each.verdict == "saturated"]
    assert [each.layer for each in found] == [str(int(place) + 1)]
    assert (found[0] in report.failures) == grave


@pytest.mark.parametrize("place", ["2", "6"])
def test_inputs_that_become_one_are_collapsed(place):
    torch.manual_seed(0)
    model, x = nets.relu_mlp()
    layer = model.get_submodule(place)
    with torch.no_grad():
        layer.weight.mul_(1e-3)
        layer.bias.normal_()
    report = audit(model, x)
    assert (place, "collapsed") in failed(report)
    assert len([each for each in report.failures if each.verdict == "collapsed"]) == 1


def test_one_input_is_not_collapsed():
    torch.manual_seed(0)
    model, x = nets.relu_mlp()
    assert audit(model, x[:1]).ok
    assert audit(model, x[:1].expand(8, -1)).ok


@pytest.mark.parametrize(
    ("dtype", "factor"), [(torch.float16, 1e5), (torch.float32, 1e38), (torch.bfloat16, 1e38)]
)
def test_an_overflow_of_the_dtype_is_a_failure(dtype, factor):
    torch.manual_seed(0)
    model, x = nets.relu_mlp()
    layer = model.get_submodule("4")
    layer.weight.data.mul_(min(factor, 1e4))
    model, x = model.to(dtype), x.to(dtype) * 50
    layer.weight.data.mul_(factor / 1e4 if factor > 1e5 else 1.0)
    report = audit(model, x)
    assert ("4", "overflows") in failed(report)
    (found,) = [each for each in report.failures if each.verdict == "overflows"]
    assert f"its output leaves the range of {str(dtype).removeprefix('torch.')}" in found.sentence


def test_what_float16_could_not_hold_is_a_remark():
    torch.manual_seed(0)
    model, x = nets.relu_mlp()
    report = audit(model, 1e6 * x)
    found = [each for each in report.findings if each.verdict == "overflows in float16"]
    assert [each.layer for each in found] == ["0"]
    assert report.ok


def test_a_zero_last_layer_and_a_zero_branch_are_remarks():
    torch.manual_seed(0)
    model, x = nets.encoder()
    for place in ("1.down", "7"):
        nn.init.zeros_(model.get_submodule(place).weight)
    report = audit(model, x)
    assert report.ok
    assert nets.named(report) == {("1.down", "all zeros"), ("7", "all zeros")}


def test_a_layer_never_called_is_a_remark():
    torch.manual_seed(0)
    model, x = nets.encoder(1)
    model[0].add_module("spare", nn.Linear(4, 4))
    report = audit(model, x)
    assert report.ok
    assert nets.words(report) == {("0.spare", "never called")}


def trained():
    """Fit a teacher hard, with a large step: the weights end up far from any draw."""
    torch.manual_seed(0)
    model = nets.stack([24, 48, 48, 48, 48, 1], nn.ReLU)
    x = torch.randn(256, 24)
    y = 5 * torch.sign(x[:, :1] * x[:, 1:2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model, x


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("inner", "outer", "notes"),
    [
        (8, 0, ["", "no theory", "empty output", "no theory"]),
        (0, 8, ["empty output", "empty output", "no theory", ""]),
    ],
)
def test_a_layer_without_weights_to_hold_is_passed_by(inner, outer, notes):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, inner), nn.ReLU(), nn.Linear(inner, outer), nn.Linear(outer, 4)
    )
    report = audit(model, torch.randn(16, 8), backward=False)
    assert [row.note for row in report.predicted] == notes
    assert [bool(row.band) for row in report.measured] == [not note for note in notes]
    assert str(report)


def test_trained_weights_are_not_random_and_have_no_false_causes():
    report = audit(*trained())
    assert ("", "not random") in nets.words(report)
    assert report.ok
    assert not nets.named(report)


BROKEN = {
    "NaN": lambda model: nets.unwritten(torch.nan)(model[4]),
    "infinite": lambda model: nets.unwritten(torch.inf)(model[4]),
    "zero": lambda model: nn.init.zeros_(model[4].weight),
    "healthy": lambda model: None,
}


def report_of(how):
    torch.manual_seed(0)
    model, x = nets.relu_mlp()
    BROKEN[how](model)
    return audit(model, x)


@pytest.mark.parametrize("how", BROKEN)
def test_a_report_is_strict_json(how):
    report = report_of(how)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(found) == ["ok", "measured", "predicted", "findings", "failures"]
    assert found["ok"] is report.ok is (how == "healthy")
    assert len(found["findings"]) == len(report.findings)
    assert len(found["measured"]["layers"]) == len(found["predicted"]["layers"]) == 11


@pytest.mark.parametrize("how", BROKEN)
def test_every_report_prints_and_draws(how):
    report = report_of(how)
    assert isinstance(report.plot(), matplotlib.figure.Figure)
    for text in (str(report), report._repr_html_()):
        for finding in report.findings:
            assert finding.layer in text
            assert finding.verdict in text


def test_a_report_is_drawn_on_axes_only():
    report = audit(nn.Linear(4, 4), torch.randn(8, 4))
    with pytest.raises(TypeError, match="ax must be one Axes of matplotlib's, got int; take it"):
        report.plot(ax=3)  # pyright: ignore[reportArgumentType]


def test_failures_are_raised_with_all_that_is_said_of_them():
    report = report_of("zero")
    with pytest.raises(AssertionError) as caught:
        report.raise_for_failures()
    head, *lines = str(caught.value).splitlines()
    assert head == "the audit found 1 failure:"
    assert lines[0].startswith("  4: symmetric (all zeros): its weights are all zero")
    said = report.failures[0].sentence
    assert " ".join(map(str.strip, lines)).endswith(f"{said} Lesson 14, training.")
    report_of("healthy").raise_for_failures()


@pytest.mark.parametrize("how", ["NaN", "zero"])
def test_a_finding_is_folded_under_its_first_words(how):
    report = report_of(how)
    with pytest.raises(AssertionError) as caught:
        report.raise_for_failures()
    for text in (str(report).split("\n\n")[1], str(caught.value)):
        heads = [line for line in text.splitlines() if re.match("  \\S", line)]
        hanging = [line for line in text.splitlines() if line.startswith("    ")]
        assert heads
        assert hanging
        assert max(map(len, text.splitlines())) <= 84
    assert all(finding.sentence in report._repr_html_() for finding in report.findings)


def test_the_finding_stands_before_the_numbers():
    titles = str(report_of("zero")).splitlines()[0].split()
    assert titles[:4] == ["layer", "kind", "finding", "expected"]


def test_a_healthy_report_says_so():
    assert str(report_of("healthy")).endswith("\nhealthy: no failures")


def test_failures_are_findings_in_call_order():
    report = report_of("NaN")
    assert set(report.failures) <= set(report.findings)
    assert all(isinstance(finding, Finding) for finding in report.findings)
    assert not report.ok


def test_names_are_escaped_in_html():
    model = nn.Sequential()
    model.add_module("<b>&", nn.Linear(4, 4))
    html = audit(model, torch.randn(8, 4))._repr_html_()
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;" in html


def test_without_backward_there_are_no_gradients():
    torch.manual_seed(0)
    model, x = nets.relu_mlp(10)
    for place in range(2, 20, 2):
        nets.lecun(model[place])
    report = audit(model, x, backward=False)
    assert not any(row.grad for trace in (report.measured, report.predicted) for row in trace)
    assert not any("gradient" in each.verdict for each in report.findings)


def transposed():
    """An autoencoder whose decoder has the encoder's weight, transposed."""
    encoder, decoder = nn.Linear(32, 8), nn.Linear(8, 32)
    decoder.weight = nn.Parameter(encoder.weight.detach().T)
    return nn.Sequential(encoder, nn.Tanh(), decoder), torch.randn(16, 32)


@pytest.mark.parametrize(
    ("make", "layer", "note"),
    [(restoration.zoo.gpt2, "lm_head", "tied to transformer.wte"), (transposed, "2", "tied to 0")],
)
def test_what_its_own_weight_made_is_predicted_by_no_fresh_draw(make, layer, note):
    torch.manual_seed(0)
    model, x = make()
    report = audit(model.eval(), x, backward=False)
    assert (report.measured[layer].band, report.predicted[layer].band) == (None, None)
    assert report.predicted[layer].note == note
    assert math.isnan(report.predicted[layer].signal.mean)
    said = audit(model, x).predicted[layer].note
    assert said == f"{note}; no loss: a unit Gaussian gradient entered"


def test_tied_weights_that_do_not_meet_are_predicted():
    one, other = nn.Linear(16, 16), nn.Linear(16, 16)
    other.weight = one.weight
    model = nets.Written(
        lambda self, x: torch.cat([self.one(x), self.other(x)]), one=one, other=other
    )
    report = audit(model, torch.randn(8, 16), backward=False)
    assert [row.note for row in report.predicted] == ["", ""]
    assert all(row.band for row in report.predicted)


def test_an_expected_gradient_stands_beside_the_measured_one():
    torch.manual_seed(0)
    model, x = nets.relu_mlp(4, 256)
    report = audit(model, x)
    pairs = [
        (a.grad.second_moment, b.grad.second_moment)
        for a, b in zip(report.measured, report.predicted, strict=True)
        if a.grad and b.grad
    ]
    assert len(pairs) == 3
    assert all(a == pytest.approx(b, rel=0.25) for a, b in pairs)


def test_measured_rows_are_those_of_measure():
    from handwave import measure

    torch.manual_seed(0)
    model, x = nets.conv_net()
    rows = zip(measure(model, x), audit(model, x).measured, strict=True)
    assert all(a.signal == b.signal and a.spread == b.spread for a, b in rows)


@pytest.mark.parametrize("name", restoration.zoo.ZOO)
def test_an_audit_leaves_nothing_behind(name):
    model, inputs = restoration.prepared(name)
    before = restoration.everything_about(model)
    report = audit(model, inputs)
    assert restoration.everything_about(model) == before
    json.dumps(report.to_dict(), allow_nan=False)
    assert str(report)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("name", restoration.zoo.ZOO)
def test_an_exception_in_the_middle_leaves_nothing_behind(name, where):
    model, inputs = restoration.prepared(name)
    restoration.plant(model, inputs, where)
    before = restoration.everything_about(model)
    with pytest.raises(ZeroDivisionError, match="planted"):
        audit(model, inputs)
    assert restoration.everything_about(model) == before


@pytest.mark.parametrize(
    ("model", "inputs", "error", "words"),
    [
        (nn.ReLU, torch.ones(1), TypeError, "expected a module, got the class ReLU"),
        (nn.Linear(2, 2), 3.0, TypeError, "inputs"),
        (nn.LazyLinear(2), torch.ones(1, 2), ValueError, "lazy"),
        (nn.Flatten(), torch.ones(2, 2, dtype=torch.long), ValueError, "differentiate"),
    ],
)
def test_errors_name_what_came(model, inputs, error, words):
    with pytest.raises(error, match=words):
        audit(model, inputs)
