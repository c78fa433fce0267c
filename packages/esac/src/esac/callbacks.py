"""What may be asked of a learner after every generation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sextet_common.errors import InputError

if TYPE_CHECKING:
    from esac.algorithm import ESAC, Generation

Callback = Callable[["ESAC", "Generation"], bool | None]
"""Called with the learner and what the generation brought; returning False stops."""


class StopOnReward:
    """Stops once an evaluation's mean return reaches a threshold.

    Parameters
    ----------
    threshold
        The return.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, model: ESAC, brought: Generation) -> bool:
        """Tell whether to go on."""
        return model.best.reward < self.threshold


class SaveEvery:
    """Saves the whole learner every so many environment steps, each time under another name.

    Parameters
    ----------
    folder
        Where files ``esac-STEPS.safetensors`` go.
    every
        Environment steps.
    replay
        Save the transitions too.

    Raises
    ------
    InputError
        Where `every` is below 1.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int, *, replay: bool = False) -> None:
        if every < 1:
            raise InputError(f"every is {every}", "a whole number >= 1")
        self.folder, self.every, self.replay = Path(folder), every, replay
        self._saved = 0

    def __call__(self, model: ESAC, brought: Generation) -> None:
        """Save where it is time."""
        if model.steps // self.every > self._saved:
            self._saved = model.steps // self.every
            self.folder.mkdir(parents=True, exist_ok=True)
            model.save(self.folder / f"esac-{model.steps}.safetensors", replay=self.replay)


class All:
    """Several callbacks, one after another; one that stops, stops.

    Parameters
    ----------
    callbacks
        The callbacks.
    """

    def __init__(self, *callbacks: Callback) -> None:
        self.callbacks = callbacks

    def __call__(self, model: ESAC, brought: Generation) -> bool:
        """Call all of them, and tell whether to go on."""
        return all([callback(model, brought) is not False for callback in self.callbacks])
