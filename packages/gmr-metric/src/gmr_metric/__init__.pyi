from .density.mixture import GaussianMixture as GaussianMixture
from .distances.inner import (
    inner_product as inner_product,
    log_inner_product as log_inner_product,
    log_inner_product_gradients as log_inner_product_gradients,
    norm as norm,
)
from .distances.metrics import (
    Estimate as Estimate,
    available_metrics as available_metrics,
    distance as distance,
    kl_divergence as kl_divergence,
    pairwise_distances as pairwise_distances,
    similarity as similarity,
)
from .filtering import GaussianSumFilter as GaussianSumFilter
from .reduction.api import (
    Reduction as Reduction,
    available_methods as available_methods,
    reduce as reduce,
    reduce_many as reduce_many,
    register_method as register_method,
)
from .reduction.merging import merge as merge, merge_groups as merge_groups
from .reduction.outcome import Outcome as Outcome, Step as Step
from .reduction.refinement import refine as refine

__all__ = [
    "Estimate",
    "GaussianMixture",
    "GaussianSumFilter",
    "Outcome",
    "Reduction",
    "Step",
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
]

__version__: str
