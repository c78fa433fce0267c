"""A closed-form metric between Gaussian mixtures, and fast mixture reduction.

``reduce(mixture, n_components)`` reduces a mixture, ``distance(f, g)`` is the metric, and
``GaussianMixture`` is the value that both take. Names are imported on first use.
`gmr_metric.torch`, `gmr_metric.filtering`, `gmr_metric.streaming`, `gmr_metric.belief`, `gmr_metric.plotting` and
`gmr_metric.interop.stonesoup` are modules of their own.
"""

import importlib.metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = importlib.metadata.version("gmr-metric")
