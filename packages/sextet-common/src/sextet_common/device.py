"""The torch device of a job, and a description of the machine."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sextet_common.errors import InputError, require

if TYPE_CHECKING:
    import torch

ACCEPTED = "auto, cpu, cuda, cuda:N or mps"


def pick(name: str = "auto") -> torch.device:
    """Return the torch device of this name; ``auto`` takes the first available of cuda, mps and cpu.

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
    if not re.fullmatch(r"cpu|mps|cuda(:[1-9]?\d)?", name):
        raise InputError(f"device {name!r} is unknown", ACCEPTED)
    chosen = torch.device(name)
    if not available[chosen.type]:
        present = ", ".join(kind for kind, is_present in available.items() if is_present)
        raise InputError(f"device {name!r} is not available", f"auto or one of: {present}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} is not available", f"cuda:N with N < {torch.cuda.device_count()}")
    return chosen


def describe() -> dict[str, str | int]:
    """Describe this machine, for benchmark tables: cpu, usable cores, system, python, numpy, and torch and gpu if any.

    Examples
    --------
    >>> sorted(describe())[:3]
    ['cores', 'cpu', 'gpu']
    """
    import numpy as np

    description: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    try:
        import torch
    except ModuleNotFoundError:
        return description
    description["torch"] = torch.__version__
    description["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return description


def _cpu_model() -> str:
    """Return the processor's model: Linux lists it in /proc, other systems in `platform`."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
