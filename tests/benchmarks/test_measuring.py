"""What measuring costs, as ratios to the plain run of the same model on the same input.

Plain and measured runs alternate in one process, so that a busy moment of the machine meets both;
the ratio is that of their medians. The bounds are recorded beside what was measured. Memory and
imports have a process each, since what one took is not given back.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handwave import measure, mlp
from handwave.stacks import Residual

ROUNDS = 15


def perceptron() -> tuple[nn.Module, Tensor]:
    """50 ReLU layers of width 784, 512 inputs."""
    return mlp(784, 50, nn.ReLU), torch.randn(512, 784)


def encoder() -> tuple[nn.Module, Tensor]:
    """Six layers of width 256 with 8 heads, 16 x 128 tokens, in train mode without dropout."""
    layer = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 6), torch.randn(16, 128, 256)


def residual() -> tuple[nn.Module, Tensor]:
    """Convolutions of 32, 64 and 128 channels, two residual blocks each, 32 images of 32 x 32."""

    def convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())

    stages: list[nn.Module] = []
    for before, after in itertools.pairwise((3, 32, 64, 128)):
        stages.append(convolution(before, after, 1 if before == 3 else 2))
        for _ in range(2):
            branch = nn.Sequential(convolution(after, after), convolution(after, after))
            stages.append(Residual(branch))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return nn.Sequential(*stages, *head), torch.randn(32, 3, 32, 32)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(benchmark: Any, plain: Callable[[], object], measured: Callable[[], object]) -> float:
    """Run both in turn; return the ratio of their medians."""
    pairs: list[tuple[float, float]] = []
    for run in (plain, measured):  # pools of threads are set up once in a process's life
        run()
    benchmark.pedantic(lambda: pairs.append((seconds(plain), seconds(measured))), rounds=ROUNDS)
    return statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs)


def report(benchmark: Any, what: str, found: float, bound: float) -> None:
    benchmark.extra_info[what] = {"ratio": round(found, 4), "bound": bound}
    print(f"\n{what}: ratio {found:.3f}, bound {bound}")


@pytest.mark.parametrize(
    ("make", "detail", "bound"),
    [
        (perceptron, False, 1.1),
        (encoder, False, 1.1),
        (residual, False, 1.3),
        (perceptron, True, 1.5),
        (encoder, True, 1.5),
        (residual, True, 2.0),
    ],
)
def test_forward(benchmark: Any, make: Callable[[], Any], detail: bool, bound: float) -> None:
    torch.manual_seed(0)
    model, x = make()

    def plain() -> None:
        with torch.no_grad():
            model(x)

    found = compare(benchmark, plain, lambda: measure(model, x, detail=detail))
    report(benchmark, f"forward, {make.__name__}, detail={detail}", found, bound)


@pytest.mark.parametrize("make", [perceptron, encoder, residual])
def test_backward(benchmark: Any, make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, x = make()

    def plain() -> None:
        model.zero_grad()
        y = model(x)
        y.backward(torch.randn_like(y))

    found = compare(benchmark, plain, lambda: measure(model, x, backward=True, detail=False))
    report(benchmark, f"backward, {make.__name__}", found, 1.15)


PEAK = """
import sys, torch, handwave as hw
def peak():  # of this program alone: getrusage begins where the parent process was
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
depth, run = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
model, x = hw.mlp(64, depth, torch.nn.ReLU), torch.randn(65536, 64)
small = hw.mlp(64, 1, torch.nn.ReLU)
backward = run.endswith("backward")
def plain(model):
    with torch.set_grad_enabled(backward):
        y = model(x)
        if backward:
            y.backward(torch.randn_like(y))
go = plain if run.startswith("plain") else lambda m: hw.measure(m, x, backward=backward)
go(small)
before = peak()
go(model)
print((peak() - before) / 1024)
"""


def printed(code: str, *arguments: str) -> float:
    command = [sys.executable, "-c", code, *arguments]
    # Every large tensor with pages of its own: what the heap keeps for later is no tensor.
    own_pages = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=own_pages)
    return float(done.stdout)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_extra_memory_grows_with_layers_not_with_activations(
    benchmark: Any, direction: str
) -> None:
    """Each activation has 16 MiB: what 60 more layers take beyond plain is compared with these."""
    found: dict[tuple[str, int], float] = {}

    def run() -> None:
        for kind, depth in itertools.product(("plain", "measure"), (20, 80)):
            found[kind, depth] = printed(PEAK, str(depth), f"{kind} {direction}")

    benchmark.pedantic(run, rounds=1)
    extra = [found["measure", depth] - found["plain", depth] for depth in (20, 80)]
    per_layer = (extra[1] - extra[0]) / 60
    benchmark.extra_info["MiB"] = {str(key): round(value, 1) for key, value in found.items()}
    print(f"\n{json.dumps({' '.join(map(str, k)): round(v, 1) for k, v in found.items()})}")
    report(benchmark, f"memory of a layer in activations, {direction}", per_layer / 16, 0.1)


IMPORT = """
import time
begin = time.perf_counter()
import torch
torch_is_there = time.perf_counter()
import handwave
print((time.perf_counter() - begin) / (torch_is_there - begin))
"""


def test_import(benchmark: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`import handwave` brings torch along: what it adds is timed in the process that it adds to.

    There is bytecode of both, as of what pip installs.
    """
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    printed(IMPORT)
    ratios: list[float] = []
    benchmark.pedantic(lambda: ratios.append(printed(IMPORT)), rounds=ROUNDS)
    found = statistics.median(ratios)
    report(benchmark, f"import, {os.cpu_count()} cores", found, 1.05)
