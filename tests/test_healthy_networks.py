"""Healthy networks: an audit finds no failure in them, and predicts nearly all of their layers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
)

import networks as nets
from handwave import audit, mlp
from handwave.stacks import Residual

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.Softplus, nn.Mish]


def activated(kind, depth, width=128):
    return nets.stack([width] * (depth + 1), kind), torch.randn(64, width)


def smooth(*shape):
    """Images of few frequencies: neighbours are alike."""
    coarse = torch.randn(*shape[:2], 4, 4)
    return nn.functional.interpolate(coarse, shape[2:], mode="bicubic", align_corners=False)


def normed(norm, conv=False):
    layers: list[nn.Module] = []
    for _ in range(5):
        layer = nn.Conv2d(16, 16, 3, padding=1) if conv else nn.Linear(64, 64)
        layers += [layer, norm(16 if conv else 64), nn.ReLU()]
    return nn.Sequential(*layers), smooth(16, 16, 16, 16) if conv else torch.randn(64, 64)


def classifier():
    """A small convolutional net as tutorials write it, with He weights."""
    layers: list[nn.Module] = []
    for place, (a, b) in enumerate(itertools.pairwise([3, 32, 64, 64])):
        conv = nets.drawn(nn.Conv2d(a, b, 3, padding=1), 2.0 if place else 1.0)
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
    head = [nets.drawn(nn.Linear(1024, 128), 2.0), nn.ReLU(), nets.drawn(nn.Linear(128, 10))]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), *head), torch.randn(32, 3, 32, 32)


def residual(depth, norm):
    blocks = [nets.Block(64, norm, 1.0 if norm else 1 / depth) for _ in range(depth)]
    return nn.Sequential(*blocks), torch.randn(64, 64)


def contained():
    branches = [nets.stack([64, 64, 64]) for _ in range(5)]
    for branch in branches:
        nets.drawn(branch[2], 2 / 5)
    return nn.Sequential(*map(Residual, branches)), torch.randn(64, 64)


def sequence(kind):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 32)
            self.cells = kind(32, 48, 2, batch_first=True)
            self.head = nn.Linear(48, 50)

        def forward(self, ids):
            return self.head(self.cells(self.embed(ids))[0])

    return Reader(), torch.randint(0, 50, (16, 20))


def autoencoder():
    sizes = [128, 96, 64, 96, 128]
    return nets.stack(sizes, nn.Tanh), torch.randn(64, 128)


def generator():
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise([48, 32, 24, 16, 16]):
        kind = nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)
        layers += [nets.drawn(kind, 2.0 if layers else 1.0), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), torch.randn(16, 48, 2, 2)


def orthogonal():
    model, x = nets.relu_mlp(8)
    for place, layer in enumerate(list(model)[::2]):
        nets.drawn(layer, 2.0 if place else 1.0, distribution="orthogonal")
    return model, x


def xavier():
    layers: list[Any] = [part for _ in range(6) for part in (nn.Linear(96, 96), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers), torch.randn(64, 96)


KINDS = {
    **{kind.__name__: lambda kind=kind: activated(kind, 6) for kind in ACTIVATIONS[:-2]},
    "deep ReLU": lambda: activated(nn.ReLU, 10),
    "mlp": lambda: (mlp(128, 8, nn.ReLU), torch.randn(64, 128)),
    "convolutions": lambda: nets.conv_net(6),
    "smooth images": lambda: (nets.conv_net(6)[0], smooth(16, 24, 12, 12)),
    "classifier": classifier,
    "encoder": lambda: nets.encoder(4),
    "no norm": lambda: residual(8, False),
    "pre-norm": lambda: residual(8, True),
    "Residual": contained,
    "BatchNorm": lambda: normed(nn.BatchNorm1d),
    "LayerNorm": lambda: normed(nn.LayerNorm),
    "BatchNorm2d": lambda: normed(nn.BatchNorm2d, conv=True),
    "LSTM": lambda: sequence(nn.LSTM),
    "GRU": lambda: sequence(nn.GRU),
    "autoencoder": autoencoder,
    "generator": generator,
    "orthogonal": orthogonal,
    "Xavier": xavier,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_network_has_no_failures(kind, seed):
    torch.manual_seed(seed)
    model, x = KINDS[kind]()
    audit(model, x).raise_for_failures()


def test_there_are_more_than_twenty_kinds():
    assert len(KINDS) > 20


def small(seed):
    """Draw one of six kinds of small networks, of 4 to 10 layers."""
    torch.manual_seed(seed)
    depth = 4 + seed % 7
    makers = [
        lambda: activated(nn.ReLU, depth, 48),
        lambda: activated(nn.Tanh, depth, 48),
        lambda: activated(nn.GELU, depth, 48),
        lambda: nets.conv_net(depth, 12),
        lambda: residual(depth // 2, True),
        lambda: residual(depth // 2, False),
    ]
    return makers[seed % len(makers)]()


def test_fewer_than_one_small_healthy_network_in_fifty_fails():
    """With 1 in 50, 14 or more of 200 would fail with a probability of 4e-5; seeds are fixed."""
    failing = [seed for seed in range(200) if not audit(*small(seed)).ok]
    print(f"false alarms: {len(failing)} of 200 small healthy networks: {failing}")
    assert len(failing) <= 4, failing
    assert binom.sf(13, 200, 0.02) < 1e-4


def gpt2(width, layers, heads):
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=200, n_positions=32)
    return GPT2LMHeadModel(config), {"input_ids": torch.randint(0, 200, (8, 24))}


def torch_encoder(norm_first, **options):
    layer = nn.TransformerEncoderLayer(
        64, 4, 256, batch_first=True, norm_first=norm_first, **options
    )
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(8, 16, 64)


def bert():
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=256,
        vocab_size=100,
    )
    return BertModel(config), {"input_ids": torch.randint(0, 100, (8, 16))}


def resnet(layer, images=None):
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], layer_type=layer
    )
    model = ResNetForImageClassification(config)
    return model, {"pixel_values": torch.randn(16, 3, 64, 64) if images is None else images}


AUTHORS = {
    "GPT-2 small": lambda: gpt2(64, 4, 4),
    "GPT-2 narrow": lambda: gpt2(16, 12, 2),
    "GPT-2 wide": lambda: gpt2(192, 3, 4),
    "GPT-2 one layer": lambda: gpt2(48, 1, 2),
    "encoder, pre-norm": lambda: torch_encoder(True),
    "encoder, post-norm": lambda: torch_encoder(False),
    "encoder, GELU": lambda: torch_encoder(True, activation="gelu"),
    "BERT": bert,
    "ResNet, basic": lambda: resnet("basic"),
    "ResNet, bottleneck": lambda: resnet("bottleneck"),
    "ResNet, smooth images": lambda: resnet("basic", smooth(16, 3, 64, 64)),
}


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", AUTHORS)
def test_as_their_authors_initialise_them_they_have_no_failures(name, mode):
    torch.manual_seed(0)
    model, x = AUTHORS[name]()
    audit(model.train(mode), x).raise_for_failures()


@pytest.mark.parametrize("name", AUTHORS)
def test_nine_tenths_of_their_weight_layers_carry_a_prediction(name):
    torch.manual_seed(0)
    model, x = AUTHORS[name]()
    rows = [
        row for row in audit(model, x).measured if row.weight or row.kind == "MultiheadAttention"
    ]
    carried = sum(row.band is not None for row in rows)
    assert carried >= 0.9 * len(rows)
    assert carried
