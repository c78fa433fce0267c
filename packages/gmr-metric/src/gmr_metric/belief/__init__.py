"""Belief propagation over graphs of variables with Gaussian-mixture potentials."""

from gmr_metric.belief.potentials import Joint, Linear, Measurement, Unary, ring
from gmr_metric.belief.propagation import BeliefPropagation, Beliefs, Potential
from gmr_metric.models import Model

__all__ = ["BeliefPropagation", "Beliefs", "Joint", "Linear", "Measurement", "Model", "Potential", "Unary", "ring"]
