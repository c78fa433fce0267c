"""What every experiment of the six packages needs, one room per concern.

The rooms are modules, imported by name, so that ``import sextet_common`` itself
stays light (no numpy, torch, scikit-learn or matplotlib):

``seeding`` one seed to all random numbers; ``runs`` run folders and metrics;
``checkpoint`` atomic, checksummed tensors; ``data`` one image set from many sources;
``networks`` those of torchvision and timm by name, and their cost; ``progress``, ``device``,
``figures``, ``cli``, ``files``, ``errors``.
"""

from __future__ import annotations

from sextet_common.errors import InputError

__all__ = ["InputError"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("sextet-common")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
