"""Predicting runs nothing, has the rows of measuring, and says so where it does not know."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import handwave as hw
from handwave.laws import apply_law
from handwave.running import rows
from handwave.signals import of_input
from handwave.stacks import Residual


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def linear():
    return nn.Linear(8, 8)


def zoo():
    shared = nn.Linear(8, 8)
    return {
        "a stack": (hw.mlp(8, 3, nn.ReLU), torch.randn(4, 8)),
        "one module": (nn.Linear(8, 3), torch.randn(4, 8)),
        "empty": (nn.Sequential(), torch.randn(4, 8)),
        "nested and empty": (
            nn.Sequential(nn.Sequential(), nn.Sequential(linear()), Residual(linear())),
            torch.randn(4, 8),
        ),
        "called twice": (nn.Sequential(shared, nn.Tanh(), shared), torch.randn(4, 8)),
        "one number": (nn.Sequential(nn.Linear(1, 1), nn.ReLU()), torch.randn(1, 1)),
        "a vector": (nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)), torch.randn(8)),
        "one image": (
            nn.Sequential(Residual(nn.Conv2d(3, 3, 3, padding=1)), nn.Flatten(0)),
            torch.randn(3, 6, 6),
        ),
        "an image net": (
            nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(),
                nn.Conv2d(4, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3),
            ),
            torch.randn(4, 3, 6, 6),
        ),
        "tokens": (
            nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.SiLU(), nn.RMSNorm(8)),
            torch.randint(0, 9, (2, 5)),
        ),
        "weight_norm": (nn.Sequential(weight_norm(nn.Linear(8, 8)), nn.ReLU()), torch.randn(4, 8)),
        "half": (nn.Sequential(nn.Linear(8, 8), nn.ReLU()).half(), torch.randn(4, 8).half()),
        "double": (nn.Sequential(nn.Linear(8, 8), nn.ReLU()).double(), torch.randn(4, 8).double()),
        "a dict": (nn.Sequential(nn.Linear(8, 8)), {"input": torch.randn(4, 8)}),
        "nothing but zeros": (
            nn.Sequential(nn.Linear(8, 8, bias=False), nn.LayerNorm(8)), torch.zeros(4, 8)
        ),
        "unknown kinds": (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)),
            torch.randn(2, 3, 6, 6),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("case", zoo())
def test_the_rows_are_those_of_measuring(case):
    model, x = zoo()[case]
    predicted, measured = hw.predict(model, x, backward=True), hw.measure(model, x)
    assert [row.name for row in predicted] == [row.name for row in measured]
    assert [row.kind for row in predicted] == [row.kind for row in measured]
    for mine, theirs in zip(predicted, measured, strict=True):
        assert (mine.fan_in, mine.fan_out) == (theirs.fan_in, theirs.fan_out)
        if theirs.weight:
            assert mine.weight
            assert mine.weight.var == pytest.approx(theirs.weight.var, rel=1e-5)
        if mine.band:
            assert mine.shape == theirs.shape
            assert mine.band[0] <= mine.signal.second_moment * (1 + 1e-9)
            assert mine.signal.second_moment <= mine.band[1] * (1 + 1e-9)
            assert mine.signal.count == 0
        else:
            assert mine.note.startswith("no theory")


@pytest.mark.parametrize("case", zoo())
def test_it_runs_no_layer_and_changes_nothing(case):
    model, x = zoo()[case]
    called = []
    for module in rows(model):  # looking at a weight runs its parametrization, here and in measure
        module.register_forward_hook(lambda *_: called.append("forward"))
        module.register_forward_pre_hook(lambda *_: called.append("before"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), str(np.random.get_state())
    hw.predict(model, x, backward=True)
    assert not called
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_where_it_is_called(mode):
    model, x = zoo()["an image net"]
    expected = hw.predict(model, x, backward=True)
    with mode():
        assert hw.predict(model, x, backward=True) == expected
    model.requires_grad_(False)
    assert hw.predict(model, x, backward=True) == expected


def test_padding_costs_corners_and_edges_what_a_window_misses():
    model = [nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(3)]
    x = torch.randn(4, 64, 7, 7).sign()
    # Three convolutions with the true shares of a 3×3 window, drawn again 40 times: a position's
    # mean square over 4 images and 64 channels has a relative error of some 3 %.
    maps = []
    for _ in range(40):
        h = x
        for conv in model:
            nn.init.normal_(conv.weight, std=(9 * 64) ** -0.5)
            h = conv(h).detach()
            maps.append(h.square().mean((0, 1)).double())
    measured = torch.stack(maps).reshape(40, 3, 7, 7).mean(0)
    first = measured[0] / measured[0][2:5, 2:5].mean()
    assert float(first[0, 0]) == pytest.approx(4 / 9, rel=0.05)
    assert float(first[0, 3]) == pytest.approx(2 / 3, rel=0.05)
    signal = of_input(x)
    for conv, seen in zip(model, measured, strict=True):
        signal, _ = apply_law(conv, signal)
        assert signal.second.shape == (7, 7)
        # 1e-6: 49 positions a layer, each off by 6 standard errors at most, 6·0.07/√40.
        assert torch.allclose(signal.second, seen, rtol=0.08)
    assert float(signal.second[0, 0]) < 0.3 * float(signal.second[3, 3])


def test_moments_are_enough_to_start_from():
    model = hw.mlp(256, 4, nn.ReLU)
    trace = hw.predict(model, hw.Moments(0.0, 2.0), backward=True)
    assert [row.shape for row in trace] == [()] * 8
    # Each weight's own mean, 1/256 of its deviation, moves what a ReLU makes by some percent.
    for row in trace.layers[::2]:
        assert row.signal.second_moment == pytest.approx(4.0, rel=0.2)
    assert trace["0"].grad
    # A unit gradient passes four ReLUs and the three weights between them.
    assert trace["0"].grad.second_moment == pytest.approx(0.5, rel=0.1)


def test_moments_of_zero_stay_zero():
    trace = hw.predict(nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU()), hw.Moments(0.0, 0.0))
    assert [row.signal.second_moment for row in trace] == [0.0, 0.0]
    assert [row.band for row in trace] == [(0.0, 0.0)] * 2


class Custom(nn.Module):
    """Somebody's module with weights."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        """Multiply."""
        return x * self.scale


class Own(nn.Linear):
    """A linear layer that is none."""

    def forward(self, input):
        """Square what came out."""
        return super().forward(input).square()


@pytest.mark.parametrize(
    "unknown",
    [nn.Softmax(-1), nn.GLU(), nn.AlphaDropout(), nn.RReLU(), nn.PReLU(8), Custom(), Own(8, 8),
     nn.LSTM(8, 8), nn.MultiheadAttention(8, 2), nn.MaxPool1d(2), nn.Bilinear(8, 8, 8),
     nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), nn.ModuleDict({"a": nn.Linear(8, 8)})],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_what_it_does_not_know_it_does_not_guess(unknown):
    model = nn.Sequential(linear(), unknown, linear(), nn.LayerNorm(8), linear())
    trace = hw.predict(model, torch.randn(4, 8), backward=True)
    first, middle, last = trace["0"], trace["1"], trace["4"]
    assert first.band
    assert not middle.band
    assert math.isnan(middle.signal.second_moment)
    assert middle.note.startswith("no theory")
    assert trace["2"].note == "no theory behind 1"
    # The norm sets the scale anew, and behind it prediction goes on.
    assert trace["3"].signal.second_moment == pytest.approx(1.0)
    assert trace["3"].note.startswith("the scale begins anew")
    assert last.note == ""
    assert last.band
    # Gradients are known down to the norm, whose factor depends on what came in.
    assert last.grad
    assert trace["3"].grad
    assert trace["2"].grad is None
    assert first.grad is None


def block(before, after):
    return nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()


def test_behind_what_it_does_not_know_prediction_goes_on_at_the_next_norm_through_convolutions():
    model = nn.Sequential(*block(3, 64), nn.LPPool2d(2, 2), *block(64, 64), *block(64, 64))
    x = torch.randn(8, 3, 8, 8)
    trace, found = hw.predict(model, x), hw.measure(model, x)
    assert [row.name for row in trace if "no theory" in row.note] == ["3", "4"]
    for row, measured in zip(trace.layers[5:], found.layers[5:], strict=True):
        assert row.shape == measured.shape
        # Behind a norm over the batch a ReLU is off by 1 %, the convolution by what 64 units draw:
        # 15 %, at 6 standard deviations of 2.5 %.
        expected = measured.signal.second_moment
        assert row.signal.second_moment == pytest.approx(expected, rel=0.15)


def test_what_is_behind_a_norm_is_gaussian_only_if_it_was_summed():
    pooled = nn.Sequential(nn.LPPool2d(2, 2), nn.BatchNorm2d(3), nn.ReLU())
    trace = hw.predict(pooled, torch.randn(8, 3, 8, 8))
    assert trace["1"].signal.second_moment == 1.0
    assert trace["2"].note.startswith("no theory")


@pytest.mark.parametrize(
    ("layers", "shape", "second"),
    [
        ((nn.LPPool2d(2, 2), nn.Conv2d(3, 8, 4), nn.GroupNorm(8, 8)), (4, 3, 8, 8), 0.0),
        ((nn.LPPool2d(2, 2), nn.Conv2d(3, 8, 4), nn.GroupNorm(4, 8)), (4, 3, 8, 8), 1.0),
        ((nn.Softmax(-1), nn.Linear(8, 1), nn.LayerNorm(1)), (4, 8), 0.0),
        ((nn.Softmax(-1), nn.Linear(8, 1), nn.RMSNorm(1)), (4, 8), 1.0),
    ],
)
def test_a_number_normalized_alone_is_its_own_mean(layers, shape, second):
    row = hw.predict(nn.Sequential(*layers), torch.randn(shape)).layers[-1]
    assert row.signal.second_moment == second


def test_a_norm_with_a_large_eps_does_not_set_the_scale_anew():
    model = nn.Sequential(nn.Softmax(-1), nn.Linear(8, 8), nn.LayerNorm(8, eps=1.0))
    assert hw.predict(model, torch.randn(4, 8)).layers[-1].note.startswith("no theory")


def zeroed(layer):
    nn.init.zeros_(layer.weight)
    return layer


def hooked(layer):
    layer.register_forward_hook(lambda _, args, output: output.relu())
    return layer


class Rectified(nn.Linear):
    def forward(self, input):
        return super().forward(input).relu()


@pytest.mark.parametrize(
    ("layer", "norm"),
    [
        (zeroed(linear()), nn.LayerNorm(8)),
        (hooked(linear()), nn.LayerNorm(8)),
        (Rectified(8, 8), nn.LayerNorm(8)),
        (linear(), nn.RMSNorm(8)),  # whose mean stays in
        (nn.Identity(), nn.LayerNorm(8)),
    ],
    ids=["zeros", "hook", "own forward", "mean", "no sum"],
)
def test_what_a_norm_gets_from_no_plain_sum_is_not_taken_for_gaussian(layer, norm):
    trace = hw.predict(nn.Sequential(nn.Softmax(-1), layer, norm, nn.ReLU()), torch.randn(4, 8))
    assert trace["2"].signal.second_moment == pytest.approx(1.0)
    assert trace["3"].note == "no theory: what enters is not Gaussian"


def test_two_numbers_behind_a_norm_are_one_and_minus_one():
    model = nn.Sequential(nn.Softmax(-1), nn.Linear(8, 2), nn.LayerNorm(2), nn.Tanh())
    found = hw.predict(model, torch.randn(4, 8))["3"].signal.second_moment
    assert found == pytest.approx(math.tanh(1.0) ** 2, rel=0.02)


@pytest.mark.parametrize("wrapped", ["weight_norm", "spectral_norm"])
def test_a_parametrized_convolution_is_known_by_the_weight_that_it_uses(wrapped):
    layer = getattr(nn.utils.parametrizations, wrapped)(nn.Conv2d(3, 64, 3))
    x = torch.randn(8, 3, 8, 8)
    expected = hw.measure(layer, x).layers[0].signal.second_moment
    # 64 units: 20 % are 5 standard deviations, as the weights' mean square is known.
    assert hw.predict(layer, x).layers[0].signal.second_moment == pytest.approx(expected, rel=0.2)


def test_a_batch_norm_of_one_number_behind_pooling_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match="2: BatchNorm2d in training mode needs more than one"):
        hw.predict(model, torch.randn(1, 3, 8, 8))


def test_a_norm_that_would_refuse_what_pooling_hands_on_is_named():
    model = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="1: BatchNorm2d is for 4 channels along axis 1"):
        hw.predict(model, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "branch", [nn.Identity(), nn.Dropout(), nn.ReLU(), nn.LayerNorm(8), nn.Sequential()]
)
def test_a_sum_of_dependent_parts_is_not_guessed(branch):
    model = nn.Sequential(linear(), Residual(branch), linear())
    trace = hw.predict(model, torch.randn(4, 8), backward=True)
    assert not trace["2"].band
    assert trace["2"].note == "no theory behind a sum of dependent parts"
    assert trace["0"].grad is None
    # At the very end too, where a gradient is known to enter: x + x has 4 times that, not 2.
    ending = nn.Sequential(linear(), Residual(branch))
    assert hw.predict(ending, torch.randn(4, 8), backward=True)["0"].grad is None


def test_a_norm_inside_a_branch_does_not_make_the_sum_known():
    model = nn.Sequential(
        nn.Softmax(-1), Residual(nn.Sequential(nn.LayerNorm(8), linear())), linear()
    )
    trace = hw.predict(model, torch.randn(4, 8))
    assert trace["1.branch.1"].band
    assert trace["2"].note == "no theory behind 0"


def test_a_branch_that_a_norm_made_known_still_depends_on_what_entered():
    branch = nn.Sequential(nn.Softmax(-1), nn.LayerNorm(8))
    trace = hw.predict(nn.Sequential(linear(), Residual(branch), linear()), torch.randn(4, 8))
    assert trace["1.branch.1"].signal.second_moment == pytest.approx(1.0)
    assert trace["2"].note == "no theory behind a sum of dependent parts"


def test_an_activation_of_what_is_not_gaussian_is_not_guessed():
    model = nn.Sequential(linear(), nn.Dropout(), nn.ReLU(), nn.BatchNorm1d(8), linear())
    trace = hw.predict(model, torch.randn(4, 8))
    assert trace["2"].note == "no theory: what enters is not Gaussian"
    assert trace["4"].band
    assert not hw.predict(model.eval(), torch.randn(4, 8))["2"].note


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv2d(3, 4, 3), nn.Linear(4, 4)], (2, 3, 6, 6)),
        ([nn.Conv2d(3, 4, 3), nn.Flatten(2)], (2, 3, 6, 6)),
        ([nn.Linear(8, 8), nn.Conv1d(3, 4, 1)], (2, 3, 8)),
    ],
)
def test_a_sum_over_positions_that_are_related_is_not_guessed(layers, shape):
    row = hw.predict(nn.Sequential(*layers), torch.randn(shape)).layers[-1]
    assert row.note.startswith("no theory")


def test_no_integers_but_tokens():
    ids = torch.randint(0, 8, (2, 8))
    assert hw.predict(nn.Sequential(linear()), ids)["0"].note == "no theory for integers"
    capped = nn.Embedding(8, 8, max_norm=1.0)
    assert hw.predict(capped, ids).layers[0].note == (
        "no theory for max_norm: rows are cut to it when they are looked up"
    )
    model = nn.Sequential(nn.Flatten(0), nn.Embedding(8, 8))
    assert hw.predict(model, ids)["1"].band
    note = "no theory without integer inputs: pass a tensor of indices"
    assert hw.predict(nn.Embedding(8, 8), hw.Moments(0.0, 1.0)).layers[0].note == note


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_end_it_also_behind_a_norm(bad):
    broken = linear()
    with torch.no_grad():
        broken.weight[0, 0] = bad
    model = nn.Sequential(broken, nn.ReLU(), nn.LayerNorm(8))
    trace = hw.predict(model, torch.randn(4, 8))
    assert trace["0"].note == "no theory: numbers that are not finite, or beyond float64"
    assert [row.band for row in trace] == [None] * 3


def test_a_gradient_through_a_norm_of_two_numbers_has_no_expectation():
    model = nn.Sequential(linear(), nn.BatchNorm1d(8))
    assert hw.predict(model, torch.randn(2, 8), backward=True)["0"].grad is None
    assert hw.predict(model, torch.randn(64, 8), backward=True)["0"].grad


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Linear(8, 8), (4, 7), r"1: Linear sums 8 numbers, but gets an input of shape \(4, 7\)"),
        (nn.Conv2d(3, 4, 3), (2, 4, 6, 6), r"1: Conv2d sums 3 numbers, but gets .* \(2, 4, 6, 6\)"),
        (nn.Conv2d(3, 4, 9), (2, 3, 6, 6), r"1: .*Kernel size can't be greater"),
        (nn.BatchNorm1d(8), (4, 7), r"1: BatchNorm1d is for 8 channels along axis 1, but gets"),
        (nn.BatchNorm2d(8), (4, 8), r"1: BatchNorm2d is for 8 channels along axis 1, but gets"),
        (nn.BatchNorm1d(8), (1, 8), r"1: BatchNorm1d in training mode needs more than one value"),
        (nn.GroupNorm(2, 8), (4, 6), r"1: GroupNorm is for 8 channels along axis 1, but gets"),
        (nn.LayerNorm(8), (4, 7), r"1: LayerNorm is for inputs \(\*, \(8,\)\), but gets one of"),
        (nn.RMSNorm(8), (4, 7), r"1: RMSNorm is for inputs \(\*, \(8,\)\), but gets one of"),
        (Residual(nn.Linear(8, 4)), (4, 8), r"1: Residual adds a branch of shape \(4, 4\) to what"),
    ],
)
def test_an_input_that_a_layer_would_refuse_is_refused_by_name(layer, shape, message):
    model = nn.Sequential(nn.Identity(), layer)
    with pytest.raises((RuntimeError, ValueError)):
        model(torch.randn(shape))
    with pytest.raises(ValueError, match=message):
        hw.predict(model, torch.randn(shape))


def test_what_has_no_values_is_refused():
    with pytest.raises(ValueError, match="a model on the meta device has no weights yet: call"):
        hw.predict(nn.Linear(8, 8, device="meta"), torch.randn(4, 8))
    with pytest.raises(ValueError, match="an input on the meta device has no values: pass Moments"):
        hw.predict(linear(), torch.randn(4, 8, device="meta"))
    with pytest.raises(ValueError, match="a lazy layer has no weights yet"):
        hw.predict(nn.LazyLinear(8), hw.Moments(0.0, 1.0))
    with pytest.raises(TypeError, match="expected a module, got int"):
        hw.predict(3, hw.Moments(0.0, 1.0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"inputs must be a tensor, a tuple .* got list"):
        hw.predict(linear(), [1.0])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("inputs", [(), {}, (torch.ones(4, 8),) * 2, {"x": torch.ones(4, 8)}])
def test_arguments_that_forward_does_not_take_are_refused_as_by_measure(inputs):
    with pytest.raises(TypeError):
        hw.measure(nn.Sequential(linear()), inputs)
    with pytest.raises(TypeError, match=r"forward of Sequential does not take these inputs: "):
        hw.predict(nn.Sequential(linear()), inputs)


def test_arguments_that_only_a_hook_makes_fit_are_not_refused():
    model = nn.Sequential(linear())
    model.register_forward_pre_hook(lambda _, args: args[:1])
    assert hw.predict(model, (torch.ones(4, 8), torch.ones(1)))


@pytest.mark.parametrize("inputs", [torch.randn(4, 8), (torch.randn(4, 8), torch.randn(4, 8))])
def test_a_module_of_several_is_told_what_is_walked_through(inputs):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear()

        def forward(self, x, y=None):
            return self.layer(self.layer(x))

    hint = "no theory: only nn.Sequential and Residual are walked through; audit predicts the layer"
    (row,) = hw.predict(Twice(), inputs)
    assert row.note.startswith(hint)
    attention = hw.predict(nn.MultiheadAttention(8, 2), (torch.randn(4, 8),) * 3)
    assert [row.note for row in attention] == ["no theory"]  # one row of audit's as well


@pytest.mark.parametrize(
    "first", [nn.Flatten(), nn.ReLU(), nn.GELU(), nn.Identity(), nn.Dropout().eval()], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_before_any_weight_the_input_itself_is_known(first, dtype):
    model = nn.Sequential(first, nn.Linear(48, 8)).to(dtype)
    x = torch.randn(16, 48, dtype=dtype)
    band = hw.predict(model, x)["0"].band
    assert band
    assert band[0] < hw.measure(model, x)["0"].signal.second_moment < band[1]
    assert band[1] / band[0] < 1 + 6 * max(torch.finfo(dtype).eps, 3e-7)


def test_what_is_assumed_has_no_band():
    # Whatever eps takes away behind a softmax, nobody knows how much; and a law has no sample.
    norm = hw.predict(nn.Sequential(linear(), nn.Softmax(-1), nn.LayerNorm(8)), torch.ones(4, 8))
    assert norm["2"].signal.second_moment == pytest.approx(1.0)
    assert norm["2"].band is None
    assert hw.predict(nn.Identity(), hw.Moments(0.0, 1.0)).layers[0].band is None
    uneven = nn.BatchNorm1d(8).eval()
    assert uneven.running_var is not None
    uneven.running_var[0] = 9.0
    assert hw.predict(uneven, torch.randn(4, 8)).layers[0].band is None
    assert hw.predict(nn.BatchNorm1d(8).eval(), torch.randn(4, 8)).layers[0].band


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: (nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 3)), torch.ones(2, 4)),
        (lambda: (nn.Conv2d(3, 0, 1), nn.ReLU()), torch.ones(2, 3, 4, 4)),
        (lambda: (nn.Linear(4, 0), nn.Linear(0, 3), nn.BatchNorm1d(3)), torch.ones(2, 4)),
    ],
    ids=["linear", "convolution", "norm"],
)
def test_a_weight_without_entries_has_no_law(make, x):
    first, *others = hw.predict(nn.Sequential(*make()), x, backward=True)
    assert first.note == "no theory: a weight without entries"
    notes = [row.note for row in others if row.kind != "BatchNorm1d"]  # which begins anew
    assert notes == ["no theory behind 0"] * len(notes) != []
