"""Draw the site's icon and the picture that a link to it shows: three signals in one direction."""

import matplotlib.pyplot as plt
import torch
from torch import nn

import handwave as hw

WIDTH, DEPTH = 784, 50
SCALES = {"#c2410c": 1.0, "#147d4f": WIDTH**-0.5, "#0b62a8": 0.01}


def sizes(std: float) -> list[float]:
    """Measure the size of a typical value after each layer, as long as it is a number."""
    x = torch.randn(32, WIDTH, generator=torch.manual_seed(0))
    net: nn.Module = hw.mlp(WIDTH, DEPTH, std=std, generator=torch.manual_seed(1))
    trace = hw.measure(net, x, detail=False)
    return [1.0, *(row.signal.rms for row in trace if row.signal.nonfinite == 0)]


curves = {color: sizes(std) for color, std in SCALES.items()}

icon = plt.figure(figsize=(0.5, 0.5), layout="none")
axes = icon.add_axes((0.08, 0.08, 0.84, 0.84))
for color, curve in curves.items():
    axes.semilogy(curve[:26], color=color, linewidth=4.5, solid_capstyle="round")
axes.set_axis_off()
icon.savefig("icon.svg")

preview = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="white", layout="none")
preview.text(0.06, 0.8, "Weight initialization", fontsize=50, weight="bold", va="center")
preview.text(0.06, 0.68, "for bad mathematicians", fontsize=50, weight="bold", va="center")
preview.text(0.06, 0.56, "handwave: a course, and a library for torch", fontsize=25, color="#444")
axes = preview.add_axes((0.06, 0.08, 0.88, 0.42))
for color, curve in curves.items():
    axes.semilogy(curve, color=color, linewidth=7, solid_capstyle="round")
axes.set_axis_off()
preview.savefig("preview.png", dpi=100, facecolor="white")
