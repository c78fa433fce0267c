from .density.mixture import GaussianMixture
from .distances.inner import inner_product, log_inner_product, log_inner_product_gradients, norm
from .distances.metrics import (
    AccuracyWarning,
    Estimate,
    Measured,
    available_metrics,
    distance,
    kl_divergence,
    pairwise_distances,
    similarity,
)
from .distances.transport import Transport, transport
from .filtering import GaussianSumFilter
from .reduction.api import Reduction, available_methods, reduce, reduce_many, register_method
from .reduction.merging import merge, merge_groups
from .reduction.outcome import Outcome, Step
from .reduction.refinement import refine
from .streaming import StreamingDensity

__all__ = [
    "AccuracyWarning",
    "Estimate",
    "GaussianMixture",
    "GaussianSumFilter",
    "Measured",
    "Outcome",
    "Reduction",
    "Step",
    "StreamingDensity",
    "Transport",
    "available_methods",
    "available_metrics",
    "distance",
    "inner_product",
    "kl_divergence",
    "log_inner_product",
    "log_inner_product_gradients",
    "merge",
    "merge_groups",
    "norm",
    "pairwise_distances",
    "reduce",
    "reduce_many",
    "refine",
    "register_method",
    "similarity",
    "transport",
]

__version__: str
