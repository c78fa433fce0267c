"""Belief propagation over graphs of variables with Gaussian-mixture potentials."""

from gmr_metric.belief.graphs import read_graph, write_beliefs
from gmr_metric.belief.potentials import Joint, Linear, Measurement, Unary, ring
from gmr_metric.belief.propagation import BeliefPropagation, Beliefs, Potential
from gmr_metric.models import Model

__all__ = [
    "BeliefPropagation",
    "Beliefs",
    "Joint",
    "Linear",
    "Measurement",
    "Model",
    "Potential",
    "Unary",
    "read_graph",
    "ring",
    "write_beliefs",
]
