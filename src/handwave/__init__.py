"""Weight initialization for bad mathematicians."""

from handwave.activations import activation_moments, gain
from handwave.auditing import audit
from handwave.measuring import measure
from handwave.moments import Moments
from handwave.predicting import predict
from handwave.products import dot_product, sample_dot_products
from handwave.repairing import repair_
from handwave.reports import Report
from handwave.stacks import mlp
from handwave.traces import Layer, Trace
from handwave.weights import fans, variance_scaling_

__all__ = [
    "Layer",
    "Moments",
    "Report",
    "Trace",
    "activation_moments",
    "audit",
    "dot_product",
    "fans",
    "gain",
    "measure",
    "mlp",
    "predict",
    "repair_",
    "sample_dot_products",
    "variance_scaling_",
]
