"""Building blocks for experiments; every other package of the workspace uses them.

Import the modules by name. ``import sextet_common`` itself loads neither numpy nor torch.

``training`` runs a job with logging, checkpoints and resume; ``runs`` run folders and metrics; ``checkpoint`` atomic,
checksummed files; ``processes`` several processes under torchrun; ``seeding`` one seed for all random numbers;
``data`` image sets; ``networks`` torchvision's and timm's models; ``optimizers``, ``checks``, ``cli``, ``progress``,
``device``, ``figures``, ``files``, ``npy``, ``benchmarks``, ``errors``.
"""

from __future__ import annotations

from sextet_common.errors import InputError

__all__ = ["InputError"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("sextet-common")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
