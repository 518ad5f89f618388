"""Where torch makes new tensors is the caller's choice: what is told does not depend on it."""

import json
import subprocess
import sys

# "meta" stands for any other device: whatever of ours landed there would have no value.
TOLD = """
import json
import sys
import torch
from torch import nn
import handwave as hw

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
)
x = torch.randn(8, 3, 10, 10)
loose = torch.empty(64, 32)
told = {
    "predict": lambda: hw.predict(model, x, backward=True),
    "audit": lambda: hw.audit(model, x).to_dict(),
    "measure": lambda: hw.measure(model, x, backward=True),
    "repair_": lambda: hw.repair_(model, x, apply=False),
    "gain": lambda: (hw.gain(torch.tanh), hw.gain(nn.GELU(), backward=True)),
    "activation_moments": lambda: hw.activation_moments(torch.tanh, hw.Moments(0.0, 1.0)),
    "variance_scaling_": lambda: hw.variance_scaling_(
        loose, distribution="orthogonal", generator=torch.Generator("cpu").manual_seed(0)
    ),
    "sample_dot_products": lambda: hw.sample_dot_products(
        x.flatten(), 32, generator=torch.Generator("cpu").manual_seed(0)
    ),
}
torch.set_default_device(sys.argv[1])
first = {name: str(tell()) for name, tell in told.items()}
torch.set_default_device("cpu")
again = {name: str(tell()) for name, tell in told.items()}
print(json.dumps([first, again]))
"""


def told(device):
    """Tell everything with new tensors on a device, and once more without."""
    command = [sys.executable, "-c", TOLD, device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_default_device_changes_nothing():
    usual, again = told("cpu")
    assert len(usual) == 8
    assert again == usual
    assert told("meta") == [usual, usual]
