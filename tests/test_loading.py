"""Loading: a model and its inputs from what stands on a command line."""

import importlib
import itertools
import sys
import textwrap

import pytest
import torch
from torch import nn

from handwave.loading import (
    CouldNotTellError,
    calling,
    current_folder_importable,
    draw_inputs,
    find_model,
    read_inputs,
)

NUMBERS = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A writer of modules in the current folder, each of a name never used before."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(text):
        written.append(f"written_{next(NUMBERS)}")
        source = f"import torch\nfrom torch import nn\n{textwrap.dedent(text)}"
        (tmp_path / f"{written[-1]}.py").write_text(source)
        importlib.invalidate_caches()
        return written[-1]

    with current_folder_importable():
        yield write
    for name in written:
        sys.modules.pop(name, None)


def refused(target, seed=0):
    with pytest.raises(CouldNotTellError) as caught:
        find_model(target, seed)
    return str(caught.value)


def weight_of(target, seed=0):
    weight = find_model(target, seed).weight
    assert isinstance(weight, torch.Tensor)
    return weight


def test_functions_classes_methods_and_modules_already_made_are_found(module):
    name = module("""
        def make():
            return nn.Linear(3, 4)

        class Net(nn.Linear):
            def __init__(self):
                super().__init__(5, 6)

            @classmethod
            def wide(cls):
                return nn.Linear(7, 8)

        made = nn.Linear(9, 10)
    """)
    found = [find_model(f"{name}:{what}") for what in ("make", "Net", "Net.wide", "made")]
    assert [m.in_features for m in found if isinstance(m, nn.Linear)] == [3, 5, 7, 9]


def test_a_seed_gives_the_same_weights_whatever_the_import_has_drawn(module):
    body = "def make():\n    return nn.Linear(3, 4)"
    quiet, loud = module(body), module(f"drawn = torch.randn(5)\n{body}")
    runs = ((quiet, 0), (loud, 0), (quiet, 0), (quiet, 1))
    first, again, later, other = (weight_of(f"{name}:make", seed) for name, seed in runs)
    assert torch.equal(first, again)
    assert torch.equal(first, later)
    assert not torch.equal(first, other)


def test_a_module_made_by_its_import_repeats_as_well(module):
    text = "made = nn.Linear(3, 4)"
    first, second = (weight_of(f"{module(text)}:made") for _ in range(2))
    assert torch.equal(first, second)


def test_python_and_numpy_draw_the_same_numbers_too(module):
    name = module("""
        import random, numpy

        def make():
            layer = nn.Linear(2, 1)
            layer.drawn = random.random(), numpy.random.rand()
            return layer
    """)
    assert find_model(f"{name}:make", 3).drawn == find_model(f"{name}:make", 3).drawn


def test_inputs_are_not_the_numbers_that_the_weights_were_made_of(module):
    name = module("""
        def make():
            layer = nn.Linear(8, 8, bias=False)
            torch.manual_seed(torch.initial_seed())  # forget what the constructor drew
            nn.init.normal_(layer.weight)
            return layer
    """)
    model = find_model(f"{name}:make")
    (x,) = draw_inputs([(8, 8)], model)
    assert isinstance(model.weight, torch.Tensor)
    assert not torch.equal(x, model.weight)


@pytest.mark.parametrize("target", ["net", "net:", ":make", "net.py:make", "a b:c", "net:make()"])
def test_a_target_of_another_form_is_refused(target):
    assert refused(target) == f"expected package.module:factory, as in model:make, got {target!r}"


def test_a_missing_module_is_told_from_one_missing_inside():
    assert refused("nowhere.to:make") == (
        "no module named 'nowhere', neither in this folder nor installed: change to the folder "
        "that holds it"
    )
    assert "no module named 'torch.nowhere'" in refused("torch.nowhere:make")


def test_what_an_import_raises_is_told_with_its_place(module):
    name = module("import nowhere_at_all\n")
    assert refused(f"{name}:make") == (
        f"importing {name} raised ModuleNotFoundError: No module named 'nowhere_at_all' "
        f"({name}.py:3)"
    )
    name = module("raise SystemExit(3)")
    assert refused(f"{name}:make") == f"importing {name} raised SystemExit: 3 ({name}.py:3)"
    name = module("def make(:\n")
    assert f"importing {name} raised SyntaxError: " in (said := refused(f"{name}:make"))
    assert said.endswith(f" ({name}.py:3)")


def test_a_module_that_makes_its_names_is_told_of_what_it_raised(module):
    name = module("def __getattr__(name):\n    raise RuntimeError(name)")
    assert refused(f"{name}:make") == f"{name}:make raised RuntimeError: make ({name}.py:4)"


def test_a_folder_that_has_gone_does_not_hide_what_was_raised(module, tmp_path):
    name = module("""
        import os

        def make():
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir(os.getcwd())
            raise ValueError("no")
    """)
    assert refused(f"{name}:make") == (
        f"{name}:make raised ValueError: no ({tmp_path / name}.py:10)"
    )


def test_a_missing_name_lists_its_neighbours(module):
    name = module("class Net:\n    def small(self): ...")
    assert refused(f"{name}:Nut") == f"{name}:Nut: no 'Nut' in {name}; near it: Net"
    assert refused(f"{name}:Net.smal").endswith(f"no 'smal' in {name}.Net; near it: small")
    assert refused(f"{name}:zzz") == f"{name}:zzz: no 'zzz' in {name}"


def test_what_makes_no_module_is_refused(module):
    name = module("number = 3\n\ndef make():\n    return {}\n\ndef wide(width): ...")
    expected = "expected a torch.nn.Module or a function without arguments that returns one"
    assert refused(f"{name}:number") == f"{name}:number is int, {expected}"
    assert refused(f"{name}:make") == f"{name}:make returned dict, {expected}"
    assert refused(f"{name}:wide") == (
        f"{name}:wide: missing a required argument: 'width'; name a function that needs no "
        "arguments"
    )


def test_what_a_factory_raises_is_told_with_the_line_of_its_own_code(module):
    name = module("def make():\n    return nn.Linear('a', 'b')")
    said = refused(f"{name}:make")
    assert said.startswith(f"{name}:make raised TypeError: ")
    assert said.endswith(f" ({name}.py:4)")  # and not the line in torch that noticed


def test_inputs_take_shape_dtype_and_order_from_model_and_prompt():
    model = nn.Linear(3, 4).to(torch.float16)
    first, second = draw_inputs([(2, 3), (5,)], model)
    assert (first.shape, second.shape) == ((2, 3), (5,))
    assert first.dtype == second.dtype == torch.float16
    (bare,) = draw_inputs([(2, 3)], nn.ReLU())
    assert bare.dtype == torch.float32


def test_drawn_inputs_are_standard_normal_or_every_whole_number_below_high():
    torch.manual_seed(0)
    (x,) = draw_inputs([(1000, 1000)], nn.ReLU())
    # Standard errors 1/1000 and sqrt(2)/1000: five of each fail by chance once in about 2 million.
    assert abs(float(x.mean())) < 5e-3
    assert abs(float(x.var()) - 1) < 5 * 2**0.5 * 1e-3
    (ids,) = draw_inputs([(1000, 10)], nn.Embedding(10, 3), high=10)
    assert ids.dtype == torch.int64
    assert ids.unique().tolist() == list(range(10))


def test_inputs_beyond_the_memory_are_refused():
    with pytest.raises(CouldNotTellError, match="cannot draw inputs of these shapes: "):
        draw_inputs([(1 << 40, 1 << 20)], nn.ReLU())


CONTENTS = {
    "tensor": torch.ones(2, 3),
    "tuple": (torch.ones(2), torch.zeros(2, dtype=torch.int64)),
    "list": [torch.ones(2), 3],
    "dict": {"x": torch.ones(2), "mask": None, "more": [torch.ones(1)]},
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_of_inputs_comes_back_as_arguments(kind, tmp_path):
    path = str(tmp_path / "inputs.pt")
    torch.save(CONTENTS[kind], path)
    found = read_inputs(path, nn.ReLU())
    wanted = tuple(CONTENTS[kind]) if kind == "list" else CONTENTS[kind]
    assert type(found) is type(wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_dtype_reaches_floating_tensors_only_and_those_inside(tmp_path):
    path = str(tmp_path / "inputs.pt")
    torch.save({"x": [torch.ones(2)], "ids": torch.ones(2, dtype=torch.int64), "n": 3}, path)
    found = read_inputs(path, nn.ReLU(), torch.bfloat16)
    assert (found["x"][0].dtype, found["ids"].dtype, found["n"]) == (
        torch.bfloat16,
        torch.int64,
        3,
    )


def unreadable(path):
    with pytest.raises(CouldNotTellError) as caught:
        read_inputs(str(path), nn.ReLU())
    return str(caught.value)


class Runs:
    """Runs code when it is unpickled, unless who reads it refuses."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code in a file has run')",)


def test_files_that_hold_no_inputs_are_refused_and_never_run(tmp_path):
    path = tmp_path / "inputs.pt"
    assert unreadable(path) == f"--inputs {path}: No such file or directory"
    assert "directory" in unreadable(tmp_path)
    expected = f"--inputs {path}: expected a file of torch.save that holds nothing but tensors"
    for content in (b"", b"text", b"PK\x03\x04 half a file"):
        path.write_bytes(content)
        assert unreadable(path).startswith(expected)
    torch.save(Runs(), path)
    assert unreadable(path).startswith(expected)


@pytest.mark.parametrize(("content", "kind"), [(3, "int"), ({1: torch.ones(1)}, "dict")])
def test_a_file_of_something_else_is_refused(content, kind, tmp_path):
    torch.save(content, tmp_path / "inputs.pt")
    assert f"inputs.pt holds {kind}, expected a tensor, a tuple" in unreadable(
        tmp_path / "inputs.pt"
    )


def test_advice_follows_what_was_raised():
    said = r"^it raised ValueError: no \(.*:\d+\); sit down$"
    with pytest.raises(CouldNotTellError, match=said), calling("it", "sit down"):
        raise ValueError("no")


def test_an_interrupt_passes_as_it_is():
    with pytest.raises(KeyboardInterrupt), calling("it"):
        raise KeyboardInterrupt


def test_the_current_folder_is_importable_only_meanwhile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with current_folder_importable():
        assert sys.path == [str(tmp_path), *before]
    assert sys.path == before
