"""Data-to-model distillation: a data set in the weights of a generator, which yields any number of images."""

from __future__ import annotations

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("d2m-generator")
