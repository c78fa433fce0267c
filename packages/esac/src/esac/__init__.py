"""Evolution-based soft actor-critic: a population evolves beside a policy that is trained by gradients.

Names are imported at first use, so that workers need no torch.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("esac")
