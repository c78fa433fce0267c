from .density.mixture import GaussianMixture as GaussianMixture
from .distances.inner import inner_product as inner_product
from .distances.inner import log_inner_product as log_inner_product
from .distances.inner import log_inner_product_gradients as log_inner_product_gradients
from .distances.inner import norm as norm
from .distances.metrics import Estimate as Estimate
from .distances.metrics import available_metrics as available_metrics
from .distances.metrics import distance as distance
from .distances.metrics import kl_divergence as kl_divergence
from .distances.metrics import pairwise_distances as pairwise_distances
from .distances.metrics import similarity as similarity
from .filtering import GaussianSumFilter as GaussianSumFilter
from .reduction.api import Reduction as Reduction
from .reduction.api import available_methods as available_methods
from .reduction.api import reduce as reduce
from .reduction.api import reduce_many as reduce_many
from .reduction.api import register_method as register_method
from .reduction.merging import merge as merge
from .reduction.merging import merge_groups as merge_groups
from .reduction.outcome import Outcome as Outcome
from .reduction.outcome import Step as Step
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
