"""The command: what it prints, draws and returns."""

import importlib
import io
import itertools
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from handwave.cli import main

NUMBERS = itertools.count()
NETS = """
import atexit, os, subprocess, sys, tempfile
import torch
from torch import nn
import handwave as hw

print("imported")

def healthy():
    print("made")
    return hw.mlp(64, 4)

def exploding():
    return hw.mlp(64, 60, std=1.0)

def embedding():
    table = nn.Embedding(100, 64)
    return nn.Sequential(table, *hw.mlp(64, 2))

class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = hw.mlp(64, 1), hw.mlp(64, 1)

    def forward(self, x, y):
        return (self.left(x) + self.right(y)) / 2**0.5

class Broken(nn.Linear):
    def forward(self, x):
        raise RuntimeError(f"at\\n  {x.dtype} {self.weight.dtype} {self.training}")  # here

def broken():
    return Broken(3, 3)

class Indices(nn.Linear):
    def forward(self, x):
        return super().forward(x).argmax(1)

def indices():
    return Indices(64, 64)

def lazy():
    return nn.LazyLinear(3)

def long():
    return hw.mlp(8, 400)  # more JSON than a pipe holds

def noisy():
    os.write(1, b"from C\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"])
    sys.__stdout__.write("from the first stdout\\n")
    atexit.register(print, "at the end")
    atexit.register(os.write, 1, b"at the very end\\n")
    return hw.mlp(64, 4)

def mover():
    os.chdir(tempfile.mkdtemp(dir="."))
    return hw.mlp(64, 4)

class Silent(Exception):
    def __str__(self):
        raise RuntimeError

class Odd(BaseException):
    pass

class Raises(nn.Module):
    def forward(self, x):
        raise {1: Silent, 2: Odd, 3: GeneratorExit}[len(x)]("words")
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The name of a module of networks in the current folder, never used before."""
    monkeypatch.chdir(tmp_path)
    name = f"nets_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(NETS)
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def run(nets, capsys):
    """The command in this process: status, stdout, stderr without what the networks print."""

    def say(what, *options):
        capsys.readouterr()
        status = main(["audit", f"{nets}:{what}", *options])
        out, err = capsys.readouterr()
        return status, out, err.removeprefix("imported\n").removeprefix("made\n")

    return say


def start(*arguments, **options):
    """Start the command as a person would."""
    return subprocess.Popen(
        [sys.executable, "-m", "handwave", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_healthy_network_gives_a_report_and_status_0(run):
    status, out, err = run("healthy", "--shape", "32,64")
    assert (status, err) == (0, "")
    assert "Linear" in out
    assert "made" not in out


def test_failures_give_a_report_and_status_1(run):
    status, out, err = run("exploding", "--shape", "32,64")
    assert (status, err) == (1, "")
    assert "explodes" in out


def finite(value):
    """Refuse numbers that strict JSON has no word for, wherever they are."""
    raise AssertionError(f"{value} is no JSON")


@pytest.mark.parametrize(("what", "status"), [("healthy", 0), ("exploding", 1)])
def test_json_is_strict_and_alone_on_stdout(what, status, nets, tmp_path):
    process = start("audit", f"{nets}:{what}", "--shape", "32,64", "--json", cwd=tmp_path)
    out, err = process.communicate()
    found = json.loads(out, parse_constant=finite)
    assert process.returncode == status
    assert isinstance(found, dict)
    assert err.startswith("imported\n")  # what the model prints goes to stderr


@pytest.mark.parametrize("options", [("--json",), ()], ids=["json", "text"])
def test_whoever_writes_to_stdout_the_report_stays_alone_there(options, nets, tmp_path):
    process = start("audit", f"{nets}:noisy", "--shape", "32,64", *options, cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0
    if options:
        json.loads(out, parse_constant=finite)
    else:
        assert out.startswith("layer ")
        assert out.endswith("no failures\n")
    noise = ["from C", "from a child", "from the first stdout", "at the end", "at the very end"]
    assert sorted(err.splitlines()) == sorted(["imported", *noise])


def test_called_from_python_it_gives_stdout_back(nets, capfd):
    for writer in (sys.stdout, sys.__stdout__):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", writer)
            assert main(["audit", f"{nets}:healthy", "--shape", "32,64", "--json"]) == 0
            os.write(1, b"behind")
        out, err = capfd.readouterr()
        assert isinstance(json.loads(out.removesuffix("behind")), dict)
        assert "made" in err


def test_called_from_python_without_a_stdout_it_has_only_its_status(nets, monkeypatch, capfd):
    monkeypatch.setattr("sys.stdout", None)
    assert main(["audit", f"{nets}:healthy", "--shape", "32,64"]) == 0
    assert capfd.readouterr().out == ""


def test_a_stdout_that_was_closed_is_told_in_one_line(nets, monkeypatch, capfd):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    assert main(["audit", f"{nets}:healthy", "--shape", "32,64"]) == 2
    assert "handwave: the report cannot be written: I/O operation" in capfd.readouterr().err


def test_numbers_that_json_has_no_word_for_are_strings(run):
    # 65,504 is the largest float16: sixty layers of gain 8 go beyond it.
    status, out, _ = run("exploding", "--shape", "32,64", "--dtype", "float16", "--json")
    json.loads(out, parse_constant=finite)
    assert status == 1
    assert '"nan"' in out or '"inf"' in out


def test_a_run_repeats_and_another_seed_is_another_run(run):
    first, again, other = (
        run("healthy", "--shape", "32,64", "--seed", seed)[1] for seed in ("0", "0", "1")
    )
    assert first == again != other


def test_several_shapes_are_several_arguments(run):
    assert run("Adds", "--shape", "32,64", "--shape", "32,64")[0] == 0
    status, _, err = run("Adds", "--shape", "32,64")
    assert status == 2
    assert "missing 1 required positional argument: 'y'" in err


def test_whole_numbers_are_drawn_below_high(run):
    assert run("embedding", "--shape", "32,5", "--high", "100")[0] == 0
    status, _, err = run("embedding", "--shape", "32,500", "--high", "200")
    assert status == 2
    assert "IndexError: index out of range" in err
    assert run("embedding", "--shape", "32,5", "--high", "9", "--dtype", "int64")[0] == 0


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ((), "torch.float32 torch.float32 True"),
        (("--eval",), "torch.float32 torch.float32 False"),
        (("--train", "--dtype", "bfloat16"), "torch.bfloat16 torch.bfloat16 True"),
        (("--high", "9", "--dtype", "float64"), "torch.int64 torch.float64 True"),
        (("--high", "9", "--dtype", "int64"), "torch.int64 torch.float32 True"),
    ],
)
def test_mode_and_dtype_reach_the_model(options, seen, run):
    assert f"RuntimeError: at {seen} " in run("broken", "--shape", "2,3", *options)[2]


def test_inputs_come_from_a_file(run, tmp_path):
    torch.manual_seed(0)
    torch.save([torch.randn(32, 64), torch.randn(32, 64)], tmp_path / "two.pt")
    assert run("Adds", "--inputs", "two.pt")[0] == 0
    torch.save({"x": torch.randn(32, 64), "y": torch.randn(32, 64)}, tmp_path / "named.pt")
    assert run("Adds", "--inputs", "named.pt", "--dtype", "float64")[0] == 0
    status, out, err = run("Adds", "--inputs", "none.pt")
    assert (status, out, err) == (
        2,
        "",
        "handwave: --inputs none.pt: No such file or directory\n",
    )


def test_what_a_model_raises_is_one_line_with_the_line_of_its_own_code(nets, run):
    (line,) = (k for k, text in enumerate(NETS.splitlines(), start=1) if "# here" in text)
    assert run("broken", "--shape", "2,3") == (
        2,
        "",
        "handwave: the model raised RuntimeError: at torch.float32 torch.float32 True "
        f"({nets}.py:{line}); if its inputs do not fit it, see --shape, --high, --dtype, --inputs "
        "and --forward-only\n",
    )


def test_inputs_that_do_not_fit_are_told_with_what_to_do(run):
    status, out, err = run("healthy", "--shape", "32,63")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "mat1 and mat2 shapes cannot be multiplied (32x63 and 64x64)" in err
    assert "see --shape" in err


def test_a_model_without_gradient_is_told_of_forward_only(run):
    status, _, err = run("indices", "--shape", "32,64")
    assert status == 2
    assert "the model was refused: ValueError: nothing to differentiate" in err
    assert "--forward-only" in err
    assert run("indices", "--shape", "32,64", "--forward-only")[2] == ""


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (1, "Silent: (its message raised RuntimeError)"),
        (2, "Odd: words"),
        (3, "GeneratorExit: words"),
    ],
)
def test_whatever_is_raised_is_one_line_and_status_2(rows, told, run):
    status, out, err = run("Raises", "--shape", f"{rows},64")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"handwave: the model raised {told} (nets_")


def test_a_lazy_model_is_refused(run):
    status, _, err = run("lazy", "--shape", "2,3")
    assert status == 2
    assert "a lazy layer has no weights yet: call the model once on an input first" in err


WHOLE = "expected whole numbers above 0 with commas between, as in 32,784, got"
MISUSE = {
    (): "no inputs: give --shape 32,784 or --inputs file.pt",
    ("--shape", "2x3"): f"argument --shape: {WHOLE} '2x3'",
    ("--shape", "2,0"): f"argument --shape: {WHOLE} '2,0'",
    ("--shape", "2,3", "--inputs", "a.pt"): (
        "--inputs and --shape both say what the inputs are: drop one"
    ),
    ("--inputs", "a.pt", "--high", "3"): (
        "--inputs and --high both say what the inputs are: drop one"
    ),
    ("--shape", "2,3", "--high", "0"): (
        "argument --high: expected a whole number above 0, got '0'"
    ),
    ("--shape", "2,3", "--seed", "-1"): (
        "argument --seed: expected a whole number from 0 to 2**32 - 1, got '-1'"
    ),
    ("--shape", "2,3", "--dtype", "fp16"): "argument --dtype: invalid choice: 'fp16' (choose from",
    ("--shape", "2,3", "--dtype", "int64"): (
        "--dtype int64 needs --high N, to draw numbers below N"
    ),
    ("--shape", "2,3", "--train", "--eval"): ("argument --eval: not allowed with argument --train"),
    ("--shape", "2,3", "--plot", "a.foo"): "--plot: expected a name that ends in ",
    ("--shape", "2,3", "--plot", "none/a.svg"): (
        "--plot: 'none/a.svg' stands in a folder that does not exist; name a file in one that does"
    ),
    ("--shape", "2,3", "--colour"): "unrecognized arguments: --colour; handwave",
}


@pytest.mark.parametrize("options", MISUSE)
def test_misuse_is_one_line_and_status_2_before_anything_runs(options, run):
    status, out, err = run("nothing_of_this_name", *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"handwave: {MISUSE[options]}")


def test_a_command_alone_is_misuse(capsys):
    assert main([]) == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("b.PNG", b"\x89PNG")])
def test_a_plot_is_written_in_the_format_of_its_name(name, begins, run, tmp_path):
    (tmp_path / name).write_bytes(b"an older picture")
    before = set(tmp_path.iterdir())
    assert run("healthy", "--shape", "32,64", "--plot", name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert {p for p in tmp_path.iterdir() if p.suffix} == {p for p in before if p.suffix}


def test_names_of_files_are_those_of_the_folder_it_began_in(run, tmp_path):
    torch.save(torch.randn(32, 64), tmp_path / "in.pt")
    status, _, err = run("mover", "--inputs", "in.pt", "--plot", "here.svg")
    assert (status, err) == (0, "")
    assert [path.parent for path in tmp_path.rglob("*.svg")] == [tmp_path]


def test_a_plot_that_cannot_be_written_leaves_what_there_was(run, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.svg").write_bytes(b"an older picture")
    monkeypatch.setattr(Path, "replace", full)
    status, _, err = run("healthy", "--shape", "32,64", "--plot", "a.svg")
    assert (status, err) == (2, "handwave: --plot a.svg: No space left on device\n")
    assert (tmp_path / "a.svg").read_bytes() == b"an older picture"
    assert not list(tmp_path.glob(".a.svg*"))


def test_without_matplotlib_a_plot_is_refused_first(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("nothing_of_this_name", "--shape", "2,3", "--plot", "a.svg") == (
        2,
        "",
        "handwave: --plot needs matplotlib, which is not installed: pip install matplotlib\n",
    )


@pytest.mark.parametrize(("what", "shape", "read"), [("healthy", "32,64", 0), ("long", "4,8", 1)])
def test_a_reader_that_has_gone_is_no_error(what, shape, read, nets, tmp_path):
    arguments = ("audit", f"{nets}:{what}", "--shape", shape, "--json", "--forward-only")
    process = start(*arguments, cwd=tmp_path)
    assert process.stdout
    assert process.stderr
    assert len(process.stdout.read(read)) == read
    process.stdout.close()
    said = process.stderr.read().replace("made\n", "")
    process.stderr.close()
    assert said == "imported\n"
    assert process.wait() in {0, 1}  # its verdict all the same


def test_an_interrupt_is_quiet(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("handwave.cli.audit", interrupted)
    assert run("healthy", "--shape", "32,64") == (130, "", "handwave: interrupted\n")


def test_help_and_version_are_for_strangers(capsys):
    for arguments in (["--help"], ["audit", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "handwave audit model:make --shape 32,784" in out
    assert "could not tell" in out
    assert out.splitlines()[-1].startswith("handwave 0.")


def test_the_command_that_is_installed_is_this_one():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["handwave"].partition(":")
    assert getattr(importlib.import_module(module), name) is main
