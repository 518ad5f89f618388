"""Numbers that the pages' prose works out from definitions: page, number as written, how.

A reader can redo each with a pocket calculator; the test does. What a block has found is not for
this list: it is marked *…*{.measured}.
"""

import math
from statistics import NormalDist

ARITHMETIC: dict[str, dict[str, float]] = {
    "01-explosion.md": {
        "0.0784": 784 / 10_000,
        "0.28": math.sqrt(784) / 100,
        "2 × 10⁻²⁸": 0.28**50,
        "1.8 × 10³⁰⁸": 1.7976931348623157e308,
    },
    "03-sums.md": {"31.62": math.sqrt(1000), "0.67": NormalDist().inv_cdf(0.75)},
    "04-variance.md": {"1.6667": 5 / 3, "1.25": 5 / 4, "0.0025": 2 / 800},
    "06-fix.md": {
        "1.01": 1.01,
        "0.36": math.sqrt(2 * 50 / 784),
        "1.9": math.exp(0.63),
        "1.2": math.exp(0.2),
        "2.5": 5 * 32 / 64,
        "2.7 × 10⁻⁵": 0.81**50,
        "2.7": math.e,
    },
    "07-relu.md": {
        "8.9 × 10⁻¹⁶": 2.0**-50,
        "0.56": math.sqrt(5 * 50 / 784),
        "0.36": math.sqrt(2 * 50 / 784),
    },
    "08-gains.md": {"1.414": math.sqrt(2), "0.85": (1.4142 / 1.5335) ** 2},
    "09-backward.md": {
        "1.6": 2 * 1024 / (1024 + 256),
        "1.18": (1.5925 / 1.4674) ** 2,
        "0.118": 2 * 64 / (64 + 1024),
        "1.78": 2 * 1024 / (1024 + 128),
        "0.13": 128 / 1088 * 1.6 * 0.4 * 2048 / 1152,
    },
    "10-normalization.md": {
        "0.341": 0.5 - 1 / (2 * math.pi),
        "0.682": 1 - 1 / math.pi,
        "1.467": 1 / (1 - 1 / math.pi),
        "1.1 × 10⁻⁵": 1e-6 + 1e-5,
        "1.2 × 10²¹": 128.0**10,
    },
    "11-layers.md": {"0.0156": 1 / 64, "0.32": 1 / math.pi, "2.72": math.e},
    "12-defaults.md": {
        "2.24": math.sqrt(5),
        "2.55 × 10⁻⁴": 0.2 / 784,
        "0.016": math.sqrt(0.2 / 784),
        "0.399": (2 * math.pi) ** -0.5,
        "3 × 10⁻¹⁶": 6.0**-20,
    },
    "13-precision.md": {
        "9.5": math.log(65504) / math.log(3.2),
        "8.3": math.log(65504 / 4) / math.log(3.2),
        "60.8": math.log(65504) / math.log(1.2),
        "7.6": math.log(4) / math.log(1.2),
        "53.2": math.log(65504 / 4) / math.log(1.2),
    },
    "notation.md": {
        "3.4 × 10³⁸": (2 - 2**-23) * 2.0**127,
        "1.8 × 10³⁰⁸": 1.7976931348623157e308,
    },
    "questions.md": {
        "22.6": math.sqrt(512),
        "1.58": math.sqrt(5 * 50 / 100),
        "16.7": 100 / 6,
        "4.2": 100 * 0.5**2 / 6,
        "0.245": math.sqrt(6 / 100),
        "1.59": 1.5925,
        "0.0442": math.sqrt(2 / 1024),
        "4.5": 100 * math.sqrt(2 / 999),
        "1.3": 1.2924,
        "1.78": 512 * 2 / (512 + 512 / 8),
        "3.16": (512 * 2 / (512 + 512 / 8)) ** 2,
        "0.71": math.sqrt(0.5),
        "4691.26": 65004 / math.sqrt(192),
        "0.69": math.log(2),
        "1.0986": math.log(3),
    },
}
