"""Dataset distillation by matching attention maps (DataDAM, ATOM) or features (DM).

Distill a labelled image set into a few images per class, and measure how good they
are: ``Distiller(DistillConfig(ipc=1)).fit(data)``, ``evaluate(distilled, data)``.
"""

import importlib.metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = importlib.metadata.version("attention-matching")
