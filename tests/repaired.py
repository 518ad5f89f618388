"""What the tests of repairs share: a repair measured again on the same input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handwave import measure
from handwave.repairing import repair_

X = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(4, 6, 9, 9, generator=torch.Generator().manual_seed(2))
IDS = torch.arange(24).reshape(4, 6) % 11


def held(model, inputs, target=1.0, tolerance=1e-4):
    """Repair, measure again on the same input, and hold every repaired row to the target."""
    repair = repair_(model, inputs, target)
    trace = measure(model, inputs)
    for row in repair:
        if row.scale != 1 and row.weight in {"weight", "out_proj.weight"}:
            found = trace[row.layer].signal.second_moment
            assert found == pytest.approx(target, rel=tolerance), row
            assert row.after == pytest.approx(found, rel=tolerance), row
    return repair


def notes(repair):
    return {row.layer: row.note for row in repair if row.note}


class Shared(nn.Module):
    """One layer called twice, and one weight in two layers and a function."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(24, 24)
        self.other = nn.Linear(24, 24)
        self.other.weight = self.first.weight
        self.last = nn.Linear(24, 24)

    def forward(self, x):
        x = torch.relu(self.first(torch.relu(self.first(x))))
        x = nn.functional.linear(self.other(x), self.first.weight)
        return self.last(x)
