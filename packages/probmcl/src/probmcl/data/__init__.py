"""Multi-label data: sets of three parts, readers for published layouts, composed scenes and augmentation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
