"""Hold what was measured against what each layer's own input lets expect."""

from torch import nn

from handwave.reports import Report
from handwave.running import Inputs, check_model, on_cpu


def audit(model: nn.Module, inputs: Inputs, backward: bool = True) -> Report:
    """Run the model once, and say which layers are wrong, why, and what to read about it.

    Every layer with weights is predicted from the input that it really received, by its weights'
    mean and variance alone, and held against what came out; scales are followed from layer to
    layer, and anew behind each normalization. Norms and activations that are called as functions
    count too; they have no row, so that a dead or saturated one is told of the layer in front.
    Nothing is left behind, as by `measure`.

    Args:
        model: any module, in the mode that it is in; its last layer is the last that it calls.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments; a
            batch of 32 different inputs or more tells most.
        backward: look at gradients too, of a standard normal one that enters from above.

    Returns:
        The report; `.ok` means no failures.

    Averaged over: as `measure`; predictions over draws of the layer's weights.

    Assumes: the network is fresh. Trained weights have more structure than two moments: where
    most of the layers leave their bands the report says "not random", and causes are guesses.

    Raises:
        TypeError: model or inputs are of another kind.
        ValueError: a lazy layer has no weights yet; there is nothing to differentiate.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> _ = nn.init.zeros_(model[0].weight)
        >>> report = audit(model, torch.randn(32, 64))
        >>> [(finding.layer, finding.cause) for finding in report.failures]
        [('0', 'all zeros')]

    References:
        Lesson 15, "your-network".
    """
    check_model(model)
    with on_cpu():
        from handwave.judging import judged  # noqa: PLC0415 - the laws take long to import

    return judged(model, inputs, backward)
