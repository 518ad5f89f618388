"""A layer once more, with another weight."""

from torch import Tensor, nn

from handwave.running import own_class


def twin(layer: nn.Module, weight: Tensor | None, bias: Tensor | None = None) -> nn.Module:
    """Copy a layer without its hooks and parametrizations, with another weight and bias."""
    made = own_class(layer).__new__(own_class(layer))
    made.__dict__.update(layer.__dict__)
    # An older weight_norm keeps a plain tensor there; and who patches a model, its forward.
    for name in ("weight", "forward"):
        made.__dict__.pop(name, None)
    made.__dict__["_modules"] = {}
    made.__dict__["_parameters"] = {"weight": weight, "bias": bias}
    return made
