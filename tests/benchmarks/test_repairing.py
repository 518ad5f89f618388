"""What repairing costs, as a ratio to a plain run of the same model, and to the lsuv package.

Plain runs and repairs alternate in one process, so that a busy moment of the machine meets both;
the ratio is that of their medians. The bounds are recorded beside what was measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lsuv import lsuv_with_singlebatch
from torch import nn

from handwave import mlp
from handwave.repairing import repair_
from handwave.repairs import Repair

BOUND = 1.5


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@pytest.mark.parametrize(("depth", "rounds"), [(10, 25), (50, 15), (200, 7)])
def test_repairing_costs_little_more_than_a_run(benchmark: Any, depth: int, rounds: int) -> None:
    torch.manual_seed(0)
    model = mlp(784, depth, nn.ReLU, std=0.06)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    x = torch.randn(512, 784)

    def plain() -> None:
        with torch.no_grad():
            model(x)

    def broken_again() -> None:
        for parameter, value in zip(model.parameters(), start, strict=True):
            parameter.data.copy_(value)

    pairs: list[tuple[float, float]] = []
    kept: list[Repair] = []  # its copies of the weights are given back outside of the timing

    def pair() -> None:
        broken_again()
        pairs.append((seconds(plain), seconds(lambda: kept.append(repair_(model, x)))))
        kept.clear()

    pair()  # pools of threads and kernels are set up once in a process's life
    pairs.clear()
    benchmark.pedantic(pair, rounds=rounds)
    run, repair = (statistics.median(column) for column in zip(*pairs, strict=True))
    benchmark.extra_info["repair"] = {"ratio": round(repair / run, 4), "bound": BOUND}
    print(f"\n{depth} layers: plain {run:.3f} s, repair {repair:.3f} s, ratio {repair / run:.3f}")
    if depth <= 50:  # it takes a run a layer and more
        broken_again()
        lsuv = seconds(lambda: lsuv_with_singlebatch(model, x, verbose=False))
        benchmark.extra_info["lsuv"] = {"ratio to repair": round(lsuv / repair, 1)}
        print(f"lsuv {lsuv:.3f} s, {lsuv / repair:.1f} times the repair")
