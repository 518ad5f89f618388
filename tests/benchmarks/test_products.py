"""sample_dot_products against the one-line expression, in time and in memory.

Each run has a process of its own, since peak memory only ever grows, and since the threads of
one would warm the caches of the other. The bounds, 0.4 of the time and 0.1 of the memory, are
recorded beside what was measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

FAN_IN, SAMPLES, ROUNDS = 512, 500_000, 5

PROGRAM = """
import json, time, torch, handwave as hw
def peak():  # of this program alone: getrusage begins where the parent process was
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
FAN_IN, SAMPLES = {fan_in}, {samples}
torch.manual_seed(0)
x = torch.randn(FAN_IN)
# A small one of each first: pools of threads and kernels are set up once in a process's life.
x @ torch.randn(FAN_IN, 100); hw.sample_dot_products(x, 100)
before = peak()
start = time.perf_counter()
y = {expression}
seconds = time.perf_counter() - start
kilobytes = peak() - before
print(json.dumps([seconds, kilobytes / 1024]))
"""

PLAIN = "x @ torch.randn(FAN_IN, SAMPLES)"
STREAMED = "hw.sample_dot_products(x, SAMPLES)"


def run(expression: str) -> tuple[float, float]:
    """Return the seconds and the additional MiB of one expression."""
    code = PROGRAM.format(fan_in=FAN_IN, samples=SAMPLES, expression=expression)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, mebibytes = json.loads(done.stdout)
    return seconds, mebibytes


def test_streaming_saves_time_and_memory(benchmark: Any) -> None:
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []

    def pair() -> None:  # in turn, so that a busy moment of the machine meets both
        pairs.append((run(PLAIN), run(STREAMED)))

    benchmark.pedantic(pair, rounds=ROUNDS)
    for i, what, bound in ((0, "time", 0.4), (1, "memory", 0.1)):
        plain = statistics.median(first[i] for first, _ in pairs)
        streamed = statistics.median(second[i] for _, second in pairs)
        benchmark.extra_info[what] = {"ratio": round(streamed / plain, 4), "bound": bound}
        print(f"\n{what}: plain {plain:.3f}, streamed {streamed:.3f}, ratio {streamed / plain:.3f}")
