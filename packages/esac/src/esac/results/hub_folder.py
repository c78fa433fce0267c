"""A policy as a folder for the Hugging Face Hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sextet_common import hub
from sextet_common.errors import STRUCTURE, reading
from sextet_common.text import markdown

from esac.play import environment
from esac.play.policy import HUB_FILE, NumpyPolicy

_CONFIG = "config.json"


def export_hub(
    policy: NumpyPolicy,
    path: str | os.PathLike[str],
    env: str,
    options: Mapping[str, Any] | None = None,
    *,
    returns: Sequence[float] = (),
    license: str = "unknown",
) -> None:
    """Write a model card (README.md), config.json and policy.safetensors, which `NumpyPolicy.from_pretrained` reads.

    ``env`` and ``options`` are the environment's, ``returns`` those of the episodes of an evaluation, for the card.
    ``license`` is an identifier of the Hub. ``path`` is a new or empty folder, written atomically.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from esac import PolicyShape
    >>> folder = Path(tempfile.mkdtemp()) / "still"
    >>> export_hub(NumpyPolicy(PolicyShape(3, 1), np.array([-2.0]), np.array([2.0])), folder, "Pendulum-v1")
    >>> NumpyPolicy.from_pretrained(folder)(np.zeros(3))
    array([0.], dtype=float32)
    """
    front: dict[str, Any] = {
        "license": license,
        "library_name": "esac",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "evolution-strategies", "esac", env],
    }
    if returns:
        reward = f"{np.mean(returns):.2f} +/- {np.std(returns):.2f}"
        metric = {"type": "mean_reward", "name": "mean_reward", "value": reward, "verified": False}
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {"task": task, "dataset": {"name": env, "type": env}, "metrics": [metric]}
        front["model-index"] = [{"name": "ESAC", "results": [result]}]
    with hub.new_folder(path) as folder:
        policy.save(folder / HUB_FILE)
        settings = json.dumps({"env": env, "options": dict(options or {})}, indent=2)
        (folder / _CONFIG).write_text(settings + "\n", encoding="utf-8")
        (folder / "README.md").write_text(hub.card(front, _body(policy, env, returns)), encoding="utf-8")


def read_hub(name_or_path: str | os.PathLike[str]) -> tuple[NumpyPolicy, str, dict[str, Any]]:
    """Return the policy of a folder or repository, and the name and options of its environment."""
    folder = hub.local_folder(name_or_path, only=[HUB_FILE, _CONFIG])
    with reading(folder / _CONFIG, "the environment of a policy", *STRUCTURE):
        table = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        name, options = table["env"], dict(table["options"])
    return NumpyPolicy.load(folder / HUB_FILE), environment.name_from_file(name, folder / _CONFIG), options


def _body(policy: NumpyPolicy, env: str, returns: Sequence[float]) -> str:
    shape = policy.shape
    layers = f"hidden layers of {' and '.join(map(str, shape.hidden))} units" if shape.hidden else "no hidden layers"
    held = "its weights in float32" + ("" if policy.inputs is None else ", the normalisation of observations")
    evaluation = "Not evaluated."
    if returns:
        evaluation = (
            f"Return {np.mean(returns):.1f} ± {np.std(returns):.1f} (standard deviation), {len(returns)} episodes."
        )
    return f"""# ESAC policy for {markdown(env)}

A deterministic policy from {shape.observations} observations to {shape.actions} actions, with {layers}.
`{HUB_FILE}` holds {held} and the bounds of the actions.

{evaluation}

```python
from esac import NumpyPolicy

policy = NumpyPolicy.from_pretrained("OWNER/NAME")  # needs NumPy alone
action = policy(observation)  # an observation of shape ({shape.observations},)
```"""
