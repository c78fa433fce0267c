"""Callbacks: functions of the learner and a generation, called after each one; returning False stops learning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sextet_common import checks, files
from sextet_common.checks import Count

if TYPE_CHECKING:
    from esac.algorithm import ESAC, Callback
    from esac.generation import Generation


class StopOnReward:
    """Stops once the mean return of an evaluation reaches a threshold."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, model: ESAC, generation: Generation) -> bool:
        """Return whether to continue."""
        return model.best.reward < self.threshold


class SaveEvery:
    """Saves the learner every so many environment steps as ``esac-STEPS.safetensors``.

    Parameters
    ----------
    every
        Environment steps between two files.
    replay
        Save the transitions too.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int, *, replay: bool = False) -> None:
        checks.check("every", every, Count)
        self.folder, self.every, self.replay = Path(folder), every, replay
        self._saved = 0

    def __call__(self, model: ESAC, generation: Generation) -> None:
        """Save the learner if it is time."""
        if model.steps // self.every > self._saved:
            self._saved = model.steps // self.every
            with files.writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            model.save(self.folder / f"esac-{model.steps}.safetensors", replay=self.replay)


class All:
    """Calls several callbacks in turn; learning stops if one of them stops it."""

    def __init__(self, *callbacks: Callback) -> None:
        self.callbacks = callbacks

    def __call__(self, model: ESAC, generation: Generation) -> bool:
        """Call all callbacks and return whether to continue."""
        return all([callback(model, generation) is not False for callback in self.callbacks])
