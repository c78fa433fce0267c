"""A learner as arrays and plain values, and back: what it goes on from, to the same numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import checkpoint
from sextet_common.errors import InputError

from esac.outputs import Evaluations
from esac.policy import ActionMap

if TYPE_CHECKING:
    from esac.algorithm import ESAC

_COUNTERS = ("generation", "steps", "episodes", "seconds", "cpu_seconds")


class Best(NamedTuple):
    """The best policy of all evaluations so far.

    Attributes
    ----------
    reward
        The mean return of its evaluation; -inf before the first one.
    vector
        Its weights.
    action
        How it acts.
    """

    reward: float
    vector: Float[np.ndarray, " size"]
    action: ActionMap


def state(model: ESAC, *, replay: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return a learner's arrays and plain values.

    Parameters
    ----------
    model
        The learner.
    replay
        The transitions too.

    Returns
    -------
    tuple
        What `checkpoint.save` takes.
    """
    evolved, numbers = model.population.state()
    arrays = {f"population.{key}": torch.tensor(value) for key, value in evolved.items()}
    arrays |= {f"sac.{key}": tensor for key, tensor in model.sac.state().items()}
    arrays |= {f"evaluations.{key}": torch.tensor(value) for key, value in model.evaluations.arrays().items()}
    arrays["best"] = torch.tensor(model.best.vector)
    if replay:
        arrays |= {f"replay.{key}": torch.from_numpy(value) for key, value in model.replay.state().items()}
    meta = {name: getattr(model, name) for name in _COUNTERS}
    learned = {"sac_steps": model.collector.steps, "updates": model.collector.updates}
    reward = None if math.isinf(model.best.reward) else model.best.reward
    best = {"best": reward, "best_action": model.best.action}
    return arrays, {**meta, **numbers, **learned, **best, "step": model.generation}


def take(model: ESAC, found: checkpoint.Checkpoint) -> None:
    """Give a learner what `state` returned of one of the same settings.

    Raises
    ------
    InputError
        For an array that is not of this learner's shape, or a number that is none.
    """
    arrays, meta = found.arrays, found.meta
    for name, mine in state(model, replay=False)[0].items():
        theirs = arrays[name]
        if not name.startswith("evaluations.") and (theirs.shape != mine.shape or theirs.dtype != mine.dtype):
            raise InputError(
                f"{name} of shape {tuple(theirs.shape)}, {theirs.dtype}", f"{tuple(mine.shape)}, {mine.dtype}"
            )
    for name in (*_COUNTERS, "sac_steps", "updates", "sigma"):
        if type(meta[name]) not in (int, float) or not 0 <= meta[name] < math.inf:
            raise InputError(f"{name} is {meta[name]!r}", "a finite number >= 0")

    def under(name: str) -> dict[str, Any]:
        return {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{name}.")}

    def numbers(name: str) -> dict[str, np.ndarray]:
        return {key: array.numpy() for key, array in under(name).items()}

    for name in _COUNTERS:
        setattr(model, name, meta[name])
    model.collector.steps, model.collector.updates = meta["sac_steps"], meta["updates"]
    model.population.load(numbers("population"), meta["sigma"])
    model.sac.load(under("sac"))
    model.evaluations = Evaluations.of(numbers("evaluations"))
    reward = -math.inf if meta["best"] is None else float(meta["best"])
    model.best = Best(reward, arrays["best"].numpy().copy(), meta["best_action"])
    if under("replay"):
        model.replay.load(numbers("replay"))
