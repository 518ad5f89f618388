"""How fast the site is built, against MkDocs without our plugin: ratios within one run.

The floor is `mkdocs build` of the same mkdocs.yml and the same pages, without handwave_site and
with mkdocs-jupyter's cache warm. Each benchmark records its own bound as `extra_info`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handwave_site import settings
from handwave_site.blocks import read_page
from handwave_site.cache import Cache
from handwave_site.runner import Runner

ROOT = Path(__file__).parents[2]
ROUNDS = 5


def build(folder: Path, config: str = "mkdocs.yml") -> float:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", "site"]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    return seconds


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("docs", "examples", "includes", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", folder)
    return folder


@pytest.fixture(scope="module")
def cold(project: Path) -> float:
    return build(project)


@pytest.fixture(scope="module")
def bare(project: Path, cold: float) -> Path:
    """Build the same pages without our plugin, the example's notebook lying in docs/."""
    copy = project.with_name("floor")
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".cache", "site"))
    notebooks = project / ".cache/handwave_site/notebooks/examples"
    shutil.copytree(notebooks, copy / "docs/examples")
    text = (copy / "mkdocs.yml").read_text(encoding="utf-8")
    text = re.sub(r"  - handwave_site:\n(      .*\n)*", "", text)
    text = re.sub(r"(?m)^validation:\n(  .*\n)*", "", text)  # the lesson link of the notebook
    (copy / "mkdocs.yml").write_text(text, encoding="utf-8")
    build(copy)  # warms mkdocs-jupyter's cache
    return copy


@pytest.fixture
def floors(bare: Path) -> list[float]:
    """The seconds of builds of the floor; each round adds one, so that both meet the same load."""
    return [build(bare)]


def record(benchmark: Any, floors: list[float], bound: Callable[[float], float]) -> None:
    best, floor = benchmark.stats.stats.min, min(floors)
    benchmark.extra_info.update(
        floor=round(floor, 3), ratio=round(best / floor, 3), bound=round(bound(floor), 3),
        within=best <= bound(floor),
    )  # fmt: skip
    print(f"\n{benchmark.name}: {best:.2f} s, floor {floor:.2f} s, bound {bound(floor):.2f} s")


def rebuild_bound(floor: float) -> float:
    return max(1.2 * floor, floor + 0.2)


def test_nothing_changed(benchmark: Any, project: Path, bare: Path, floors: list[float]) -> None:
    def setup() -> tuple[tuple[Path], dict[str, Any]]:
        floors.append(build(bare))
        return (project,), {}

    benchmark.pedantic(build, setup=setup, rounds=ROUNDS)
    record(benchmark, floors, rebuild_bound)


def test_a_word_of_prose_changed(
    benchmark: Any, project: Path, bare: Path, floors: list[float]
) -> None:
    page = project / "docs/03-sums.md"

    def change() -> tuple[tuple[Path], dict[str, Any]]:
        floors.append(build(bare))
        page.write_text(page.read_text(encoding="utf-8") + "\nA word.\n", encoding="utf-8")
        return (project,), {}

    benchmark.pedantic(build, setup=change, rounds=ROUNDS)
    record(benchmark, floors, rebuild_bound)


def test_everything_is_cold(benchmark: Any, project: Path, bare: Path, floors: list[float]) -> None:
    site = settings.load(project / "mkdocs.yml")
    work = imports() + blocks_cpu(project, site) / site.limits.cores + example(project)

    def clean() -> tuple[tuple[Path], dict[str, Any]]:
        floors.append(build(bare))
        shutil.rmtree(project / ".cache")
        return (project,), {}

    benchmark.pedantic(build, setup=clean, rounds=2)
    record(benchmark, floors, lambda floor: 1.4 * (floor + work))


def timed(*command: str, cwd: Path | None = None) -> float:
    begin = time.perf_counter()
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    subprocess.run(command, check=True, capture_output=True, cwd=cwd, env=environment)
    return time.perf_counter() - begin


def imports() -> float:
    return timed(sys.executable, "-c", "import torch, matplotlib.pyplot")


def example(project: Path) -> float:
    """Run the example as mkdocs-jupyter does, on its own."""
    notebook = ".cache/handwave_site/notebooks/examples/why_sqrt_n.ipynb"
    arguments = ("--to", "html", "--execute", "--stdout", notebook)
    return timed(sys.executable, "-m", "jupyter", "nbconvert", *arguments, cwd=project)


def blocks_cpu(project: Path, site: settings.Settings) -> float:
    cache = Cache(site.cache / "blocks", site.stamp())
    blocks = [b for path in sorted((project / "docs").glob("*.md")) for b in read_page(path).blocks]
    entries = [cache.get(block.code) for block in blocks]
    return sum(entry.cpu_seconds for entry in entries if entry)


@pytest.fixture
def server(project: Path, cold: float) -> Iterator[Callable[[], float]]:
    """Serve the project; each call edits one block and returns the seconds that its build took."""
    command = [sys.executable, "-m", "mkdocs", "serve", "-a", "127.0.0.1:0"]
    log = (project / "serve.log").open("w+", encoding="utf-8")
    process = subprocess.Popen(command, cwd=project, stderr=log, stdout=log)
    page = project / "docs/03-sums.md"
    original = page.read_text(encoding="utf-8")

    def wait_for(text: str, count: int) -> str:
        deadline, content = time.monotonic() + 120, ""
        while time.monotonic() < deadline:
            content = (project / "serve.log").read_text(encoding="utf-8")
            if content.count(text) >= count:
                return content
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} within two minutes: {content[-2000:]}")

    def edit() -> float:
        seen = (project / "serve.log").read_text(encoding="utf-8").count("Reloading browsers")
        edits = page.read_text(encoding="utf-8").count("# edited")
        text = original.replace("```python\n", f"```python\n{'# edited' * (edits + 1)}\n", 1)
        page.write_text(text, encoding="utf-8")
        content = wait_for("Reloading browsers", seen + 1)
        return float(re.findall(r"Documentation built in ([\d.]+) seconds", content)[-1])

    try:
        wait_for("Serving on", 1)
        yield edit
    finally:
        page.write_text(original, encoding="utf-8")
        process.terminate()
        process.wait()
        log.close()


def test_one_block_changed_while_serving(
    benchmark: Any, project: Path, floors: list[float], server: Callable[[], float]
) -> None:
    """Compare MkDocs' own clock for a rebuild with the floor's, which is a whole process."""
    edits = [server() for _ in range(ROUNDS + 1)][1:]
    block = read_page(project / "docs/03-sums.md").blocks[0]
    own: list[float] = []
    with Runner(settings.load(project / "mkdocs.yml").limits) as runner:
        runner.run([(block.line, block.code)], lambda _, ran: own.append(ran.result.seconds))
    benchmark.pedantic(server, rounds=2)
    bound = min(floors) + own[0] + 0.4
    benchmark.extra_info.update(edits=edits, bound=round(bound, 3), within=min(edits) <= bound)
    print(f"\none block while serving: {min(edits):.2f} s, bound {bound:.2f} s")
