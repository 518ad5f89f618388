"""The house: what may import what, and that every public name says what it does."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import handwave

SRC = Path(__file__).parents[1] / "src"

# Imports only point upward in this list.
ORDER = [
    "moments",
    "totals",
    "products",
    "quadrature",
    "nested",
    "activations",
    "panels",
    "weights",
    "stacks",
    "plots",
    "tables",
    "traces",
    "running",
    "restoring",
    "differentiating",
    "measuring",
    "roots",
    "cumulants",
    "hermite",
    "shaping",
    "ends",
    "wandering",
    "pairs",
    "lengths",
    "crossings",
    "mixtures",
    "chances",
    "units",
    "centring",
    "settling",
    "signals",
    "positions",
    "layouts",
    "pools",
    "neighbourhoods",
    "joint",
    "windowed",
    "averages",
    "in_pairs",
    "largest",
    "pooling",
    "twins",
    "overlaps",
    "strides",
    "windows",
    "sums",
    "inverses",
    "norms",
    "restarts",
    "batch_norms",
    "activating",
    "laws",
    "addends",
    "additions",
    "followings",
    "shapes",
    "walking",
    "predicting",
    "filters",
    "expecting",
    "functions",
    "saturation",
    "streams",
    "nodes",
    "flows",
    "recipes",
    "causes",
    "nonfinite",
    "sizes",
    "growth",
    "scales",
    "gradients",
    "verdicts",
    "reports",
    "judging",
    "auditing",
    "parts",
    "copies",
    "places",
    "levers",
    "repairs",
    "repairing",
    "loading",
    "stdout",
    "cli",
]
MODULES = [path for path in sorted((SRC / "handwave").glob("*.py")) if path.stem[0] != "_"]


def imported(path):
    """Name every module that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            assert node.module
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_only_point_upward(path):
    own = ORDER.index(path.stem)
    for name in imported(path):
        assert name != "handwave", f"{path.name} imports the package itself"
        if name.startswith("handwave."):
            assert ORDER.index(name.split(".")[1]) < own, f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("package", "other"), [("handwave", "handwave_site"), ("handwave_site", "handwave")]
)
def test_the_two_packages_know_nothing_of_each_other(package, other):
    files = list((SRC / package).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            assert name.split(".")[0] != other, f"{path} imports {name}"


def test_the_front_door_holds_names_only():
    body = ast.parse((SRC / "handwave" / "__init__.py").read_text()).body
    doc, *imports, names = body
    assert isinstance(doc, ast.Expr)
    imports = [node for node in imports if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(body) - 2
    assert isinstance(names, ast.Assign)
    brought = [alias.name for node in imports for alias in node.names]
    assert sorted(brought) == handwave.__all__ == sorted(handwave.__all__)
    assert len(handwave.__all__) <= 15


def test_no_public_name_is_a_modules_name():
    assert not set(handwave.__all__) & {path.stem for path in MODULES}


@pytest.mark.parametrize("name", handwave.__all__)
def test_every_public_name_is_documented_with_an_example_or_its_fields(name):
    thing = getattr(handwave, name)
    doc = inspect.getdoc(thing) or ""
    assert doc.split("\n")[0].endswith("."), f"{name} has no first sentence"
    if inspect.isfunction(thing):
        assert list(inspect.signature(thing).parameters), name
        for section in ("Args:", "Returns:", "Raises:", "Examples:", "References:"):
            assert section in doc, f"{name} has no {section}"
        for parameter in inspect.signature(thing).parameters:
            assert f"\n    {parameter}: " in doc, f"{name} does not say what {parameter} is"
    for attribute, value in vars(thing).items() if inspect.isclass(thing) else ():
        if attribute[0] != "_" and (callable(value) or isinstance(value, property | classmethod)):
            assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"


@pytest.mark.parametrize("name", handwave.__all__)
def test_every_function_has_one_home_and_full_annotations(name):
    thing = getattr(handwave, name)
    home = importlib.import_module(thing.__module__)
    assert getattr(home, name) is thing
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not signature.empty
        assert all(p.annotation is not p.empty for p in signature.parameters.values())


def functions():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield pytest.param(node, id=f"{path.stem}.{node.name}")


@pytest.mark.parametrize("node", list(functions()))
def test_functions_are_short(node):
    documented = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
    body = node.body[1:] if documented else node.body
    if body:
        assert (body[-1].end_lineno or 0) - body[0].lineno < 40


def test_importing_the_library_stays_cheap():
    code = (
        "import sys, torch, numpy; before = set(sys.modules); import handwave\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "heavy = {'matplotlib', 'scipy', 'pandas', 'IPython', 'handwave.laws'} & set(sys.modules)\n"
        "print(sorted(heavy), 'torch._dynamo' in set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_looking_for_tests_runs_no_program_of_the_site(tmp_path):
    # Where doctests are looked for, modules are imported: one that draws would leave its pictures.
    root = SRC.parent
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, "-c", str(root / "pyproject.toml"), f"--rootdir={root}", str(root / "docs")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    assert not [path.name for path in tmp_path.iterdir() if path.is_file()]
