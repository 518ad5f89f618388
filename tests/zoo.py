"""Modules of every family, each with an input: what measuring must leave as it was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

Case = tuple[nn.Module, Any]


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 10, shape)


class Branches(nn.Module):
    """Run what its containers hold."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ModuleList([nn.Linear(6, 6), nn.Tanh()])
        self.named = nn.ModuleDict({"a": nn.Linear(6, 6)})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(6))])
        self.shifts = nn.ParameterDict({"b": nn.Parameter(torch.zeros(6))})

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        for layer in self.listed:
            x = layer(x)
        return {"out": [self.named["a"](x) * self.scales[0] + self.shifts["b"]]}


class Recurrent(nn.Module):
    """Step through time with a cell, which the packed layers do by themselves."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = None
        for step in x:
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state  # pyright: ignore


class Pooled(nn.Module):
    """Pool, and undo it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unpool(*self.pool(self.conv(x)))


class Meddler(nn.Module):
    """Change whatever a forward pass can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("seen", torch.zeros(6))
        self.memory = torch.zeros(6)
        self.history: list[torch.Tensor] = []
        self.counts = {"calls": 0}
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.fc(x)) + torch.randn(6, generator=self.generator)
        self.seen += y.mean(0)  # under a gradient this is no leaf any more
        self.memory.add_(1)
        self.history.append(y)
        self.counts["calls"] += 1
        self.last = y
        self.norm.train(not self.norm.training)
        self.fc.weight = nn.Parameter(self.fc.weight.detach() * 2)
        self.fc.bias.data = torch.zeros(6)
        self.norm.weight.requires_grad_(False)
        self.norm.weight.data[0] = -0.0
        if self.norm.bias.grad is not None:
            self.norm.bias.grad.zero_()
        self.add_module("extra", nn.Linear(2, 2))
        self.fc.register_forward_hook(lambda module, args, out: None)
        return y


def hooked(module: nn.Module) -> nn.Module:
    """Put one hook of each kind on a module."""
    module.register_forward_pre_hook(lambda module, args: None)
    module.register_forward_hook(lambda module, args, out: None)
    module.register_full_backward_pre_hook(lambda module, grads: None)
    module.register_full_backward_hook(lambda module, before, after: None)
    next(module.parameters()).register_hook(lambda grad: grad)
    return module


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(OrderedDict(first=layer, act=nn.ReLU(inplace=True), second=layer))


def compiled() -> Case:
    model: Any = torch.compile(shared(), backend="eager")
    return model, rows(4, 6)


def frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6)).requires_grad_(
        False
    )


def gpt2() -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=30, n_positions=12)
    return GPT2LMHeadModel(config), {"input_ids": ids(2, 7)}


def resnet() -> Case:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return ResNetForImageClassification(config), {"pixel_values": rows(2, 3, 32, 32)}


def transformer() -> Case:
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    return model, (rows(2, 5, 8), rows(2, 4, 8))


def encoder(mode: bool) -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return model.train(mode), rows(2, 5, 8)


def old_weight_norm() -> Case:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 6))), rows(4, 6)


def old_spectral_norm() -> Case:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 6))), rows(4, 6)


class Attending(nn.Module):
    """Attend, with queries from a layer of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, query: torch.Tensor, *rest: torch.Tensor) -> Any:
        return self.attention(self.query(query), *rest)


def attention(**options: Any) -> Case:
    key = rows(2, 5, options.get("kdim", 8))
    return Attending(**options), (rows(2, 4, 8), key, rows(2, 5, options.get("vdim", 8)))


def activations() -> nn.Module:
    layers = [nn.ReLU(True), nn.GELU(), nn.SiLU(True), nn.ELU(), nn.SELU(), nn.Hardswish()]
    return nn.Sequential(nn.Linear(6, 6), *layers, nn.PReLU(), nn.RReLU(), nn.Softmax(-1))


def padded() -> nn.Module:
    return nn.Sequential(nn.ReflectionPad2d(1), nn.ZeroPad2d(1), nn.Conv2d(3, 2, 3))


def shuffled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)
    )


IMAGES = (2, 3, 8, 8)

ZOO: dict[str, Callable[[], Case]] = {
    "Linear": lambda: (nn.Linear(6, 4), rows(3, 6)),
    "Bilinear": lambda: (nn.Bilinear(6, 5, 4), (rows(3, 6), rows(3, 5))),
    "Identity": lambda: (nn.Sequential(nn.Identity(), nn.Linear(6, 2)), rows(3, 6)),
    "Conv1d": lambda: (nn.Conv1d(3, 4, 3), rows(2, 3, 9)),
    "Conv2d grouped": lambda: (nn.Conv2d(4, 8, 3, groups=2), rows(2, 4, 8, 8)),
    "Conv3d": lambda: (nn.Conv3d(2, 3, 2), rows(2, 2, 4, 4, 4)),
    "ConvTranspose1d": lambda: (nn.ConvTranspose1d(3, 4, 3, stride=2), rows(2, 3, 5)),
    "ConvTranspose2d": lambda: (nn.ConvTranspose2d(3, 4, 3, stride=2), rows(*IMAGES)),
    "ConvTranspose3d": lambda: (nn.ConvTranspose3d(2, 3, 2), rows(2, 2, 3, 3, 3)),
    "Unfold and Fold": lambda: (
        nn.Sequential(nn.Unfold(2), nn.Fold((8, 8), 2), nn.Conv2d(3, 2, 1)),
        rows(*IMAGES),
    ),
    "Embedding": lambda: (nn.Embedding(10, 6), ids(3, 4)),
    "Embedding max_norm": lambda: (nn.Embedding(10, 6, max_norm=0.1), ids(3, 4)),
    "EmbeddingBag": lambda: (nn.EmbeddingBag(10, 6), ids(3, 4)),
    "RNN": lambda: (nn.RNN(6, 5), rows(4, 3, 6)),
    "LSTM": lambda: (nn.LSTM(6, 5, 2, bidirectional=True, dropout=0.5), rows(4, 3, 6)),
    "GRU": lambda: (nn.GRU(6, 5, batch_first=True), rows(3, 4, 6)),
    "RNNCell": lambda: (Recurrent(nn.RNNCell(6, 5)), rows(4, 3, 6)),
    "LSTMCell": lambda: (Recurrent(nn.LSTMCell(6, 5)), rows(4, 3, 6)),
    "GRUCell": lambda: (Recurrent(nn.GRUCell(6, 5)), rows(4, 3, 6)),
    "BatchNorm1d": lambda: (nn.BatchNorm1d(6), rows(4, 6)),
    "BatchNorm2d": lambda: (nn.BatchNorm2d(3, momentum=None), rows(*IMAGES)),
    "BatchNorm3d": lambda: (nn.BatchNorm3d(3), rows(2, 3, 2, 2, 2)),
    "InstanceNorm2d": lambda: (
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3, track_running_stats=True)),
        rows(*IMAGES),
    ),
    "GroupNorm": lambda: (nn.GroupNorm(3, 6), rows(2, 6, 4)),
    "LayerNorm": lambda: (nn.LayerNorm(6), rows(2, 6)),
    "RMSNorm": lambda: (nn.RMSNorm(6), rows(2, 6)),
    "LocalResponseNorm": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.LocalResponseNorm(2)),
        rows(*IMAGES),
    ),
    "pooling": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.Flatten()),
        rows(*IMAGES),
    ),
    "FractionalMaxPool2d": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.FractionalMaxPool2d(2, output_size=3)),
        rows(*IMAGES),
    ),
    "MaxUnpool2d": lambda: (Pooled(), rows(*IMAGES)),
    "padding": lambda: (padded(), rows(*IMAGES)),
    "shuffling": lambda: (shuffled(), rows(*IMAGES)),
    "Upsample": lambda: (nn.Sequential(nn.Conv2d(3, 2, 1), nn.Upsample(size=9)), rows(*IMAGES)),
    "activations": lambda: (activations(), rows(4, 6)),
    "GLU": lambda: (nn.Sequential(nn.Linear(6, 8), nn.GLU()), rows(4, 6)),
    "Dropout": lambda: (
        nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.AlphaDropout(0.5)),
        rows(4, 6),
    ),
    "Dropout2d": lambda: (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout2d()), rows(*IMAGES)),
    "CosineSimilarity": lambda: (nn.CosineSimilarity(), (rows(4, 6), rows(4, 6).requires_grad_())),
    "AdaptiveLogSoftmax": lambda: (
        nn.AdaptiveLogSoftmaxWithLoss(6, 10, [4]),
        (rows(4, 6), ids(4)),
    ),
    "containers": lambda: (Branches(), rows(4, 6)),
    "shared, in place": lambda: (shared(), rows(4, 6)),
    "frozen": lambda: (frozen(), rows(4, 6)),
    "MultiheadAttention": attention,
    "MultiheadAttention kdim": lambda: attention(kdim=6, vdim=4, add_bias_kv=True),
    "Transformer": transformer,
    "TransformerEncoder train": lambda: encoder(True),
    "TransformerEncoder eval": lambda: encoder(False),
    "weight_norm": lambda: (
        nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6))),
        rows(4, 6),
    ),
    "spectral_norm": lambda: (
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6))),
        rows(4, 6),
    ),
    "old weight_norm": old_weight_norm,
    "old spectral_norm": old_spectral_norm,
    "DataParallel": lambda: (nn.DataParallel(nn.Linear(6, 6)), rows(4, 6)),
    "compiled": compiled,
    "hooked": lambda: (nn.Sequential(nn.Linear(6, 6), hooked(nn.Linear(6, 6))), rows(4, 6)),
    "bfloat16": lambda: (nn.Linear(6, 6).bfloat16(), rows(4, 6).bfloat16()),
    "meddler": lambda: (Meddler(), rows(4, 6)),
    "GPT-2": gpt2,
    "ResNet": resnet,
}
