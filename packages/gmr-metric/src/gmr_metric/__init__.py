"""A closed-form metric between Gaussian mixtures, and fast mixture reduction.

``reduce(mixture, n_components)`` reduces a mixture, ``distance(f, g)`` is the metric, and
``GaussianMixture`` the value that both take. Names are imported when they are first used, so
that importing the package costs next to nothing; `gmr_metric.torch`, `gmr_metric.filtering`,
`gmr_metric.plotting` and `gmr_metric.interop.stonesoup` are modules of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmr_metric.filtering import GaussianSumFilter as GaussianSumFilter
    from gmr_metric.inner import inner_product as inner_product
    from gmr_metric.inner import log_inner_product as log_inner_product
    from gmr_metric.inner import log_inner_product_gradients as log_inner_product_gradients
    from gmr_metric.inner import norm as norm
    from gmr_metric.merging import merge as merge
    from gmr_metric.merging import merge_groups as merge_groups
    from gmr_metric.metrics import Estimate as Estimate
    from gmr_metric.metrics import available_metrics as available_metrics
    from gmr_metric.metrics import distance as distance
    from gmr_metric.metrics import kl_divergence as kl_divergence
    from gmr_metric.metrics import pairwise_distances as pairwise_distances
    from gmr_metric.metrics import similarity as similarity
    from gmr_metric.mixture import GaussianMixture as GaussianMixture
    from gmr_metric.outcome import Outcome as Outcome
    from gmr_metric.outcome import Step as Step
    from gmr_metric.reduction import Reduction as Reduction
    from gmr_metric.reduction import available_methods as available_methods
    from gmr_metric.reduction import reduce as reduce
    from gmr_metric.reduction import reduce_many as reduce_many
    from gmr_metric.reduction import register_method as register_method
    from gmr_metric.refinement import refine as refine

_HOMES = {
    "filtering": ("GaussianSumFilter",),
    "inner": ("inner_product", "log_inner_product", "log_inner_product_gradients", "norm"),
    "merging": ("merge", "merge_groups"),
    "metrics": (
        "Estimate",
        "available_metrics",
        "distance",
        "kl_divergence",
        "pairwise_distances",
        "similarity",
    ),
    "mixture": ("GaussianMixture",),
    "outcome": ("Outcome", "Step"),
    "reduction": ("Reduction", "available_methods", "reduce", "reduce_many", "register_method"),
    "refinement": ("refine",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

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


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        from importlib import import_module

        value = getattr(import_module(f"gmr_metric.{_HOME_OF[name]}"), name)
        globals()[name] = value  # a submodule of the same name (merge, refine) must not stand in its place later
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("gmr-metric")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
