"""Which device a job runs on, and what machine that is."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from sextet_common.errors import InputError, require

if TYPE_CHECKING:
    import torch

ACCEPTED = "auto, cpu, cuda, cuda:N or mps"


def pick(name: str = "auto") -> torch.device:
    """Choose the torch device for a job.

    Parameters
    ----------
    name
        ``auto`` takes the first of cuda, mps and cpu that is there; else one of
        ``cpu``, ``cuda``, ``cuda:N``, ``mps``.

    Returns
    -------
    torch.device
        The device, known to exist.

    Raises
    ------
    InputError
        Where the name is unknown or this machine has no such device.

    Examples
    --------
    >>> pick("cpu")
    device(type='cpu')
    """
    require("torch", package="sextet-common", extra="torch")
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is unknown", ACCEPTED) from error
    if chosen.type not in available:
        raise InputError(f"device {name!r} is unknown", ACCEPTED)
    if not available[chosen.type]:
        here = ", ".join(kind for kind, there in available.items() if there)
        raise InputError(f"device {name!r} is not on this machine", f"auto or one of: {here}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} is not on this machine", f"cuda:N with N < {torch.cuda.device_count()}")
    return chosen


def describe() -> dict[str, str | int]:
    """Describe this machine, for the head of a benchmark table.

    Returns
    -------
    dict
        ``cpu`` (model), ``cores`` (usable ones), ``system``, ``python``, ``numpy``, and
        where torch is installed ``torch`` and ``gpu`` (model, or "none").

    Examples
    --------
    >>> sorted(describe())[:3]
    ['cores', 'cpu', 'gpu']
    """
    import numpy as np

    described: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    try:
        import torch
    except ModuleNotFoundError:
        return described
    described["torch"] = torch.__version__
    described["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return described


def _cpu_model() -> str:
    """Return the processor's name: Linux keeps it in a file, elsewhere platform knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
