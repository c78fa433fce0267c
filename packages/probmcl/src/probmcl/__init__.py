"""Probabilistic multi-label contrastive learning with a mixture density head."""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("probmcl")
