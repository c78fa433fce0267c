"""Evolution-based soft actor-critic: a population that evolves beside a policy that learns by gradients.

Names are imported when they are asked for: workers use the parts that need no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "All": "callbacks",
    "SaveEvery": "callbacks",
    "StopOnReward": "callbacks",
    "changed": "config",
    "preset": "presets",
    "release": "presets",
    "ESAC": "algorithm",
    "ESACConfig": "config",
    "Generation": "algorithm",
    "Episode": "rollout",
    "NumpyPolicy": "policy",
    "PolicyShape": "policy",
    "ProcessEngine": "engine",
    "RayEngine": "engine_ray",
    "Replay": "replay",
    "SAC": "sac",
    "SACConfig": "sac",
    "SerialEngine": "engine",
    "WorkerError": "ledger",
    "record": "video",
}

__all__ = [
    "ESAC",
    "SAC",
    "All",
    "ESACConfig",
    "Episode",
    "Generation",
    "NumpyPolicy",
    "PolicyShape",
    "ProcessEngine",
    "RayEngine",
    "Replay",
    "SACConfig",
    "SaveEvery",
    "SerialEngine",
    "StopOnReward",
    "WorkerError",
    "changed",
    "preset",
    "record",
    "release",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"esac.{_WHERE[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("esac")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
