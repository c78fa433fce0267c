"""The code that runs in a worker: NumPy and gymnasium, no torch."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import threading
import traceback
from multiprocessing import connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float
from sextet_common.errors import InputError

from esac.engines.memory import View
from esac.play.rollout import NonFiniteError
from esac.play.task import Evaluator, Job, Task

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
Answer = tuple[str, Any]
"""A worker's message: ("ready", None), ("done", episode), ("nan" or "input", message) or ("error", traceback)."""


def answer(evaluator: Evaluator, task: Task, bases: Float[np.ndarray, "bases width"]) -> Answer:
    """Run a task and return the result, or the error, in a form that can be sent."""
    try:
        return "done", evaluator(task, bases)
    except NonFiniteError as error:
        return "nan", str(error)
    except InputError as error:
        return "input", str(error)
    except Exception:  # the parent reports it
        return "error", traceback.format_exc()


def work(pipe: connection.Connection, job: Job, tries: int, spec: EnvSpec | None = None) -> None:
    """Run tasks until the parent sends None or ends: the target of a worker process.

    ``spec`` is the entry of a named environment in gymnasium's registry, which the main script may have made.
    """
    if spec is not None:
        gymnasium.registry.setdefault(spec.id, spec)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent decides when its workers end
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by the parent during the start
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent closed the pipe
        try:
            evaluator = Evaluator(job, tries)
        except Exception:
            pipe.send(("error", traceback.format_exc()))
            return
        pipe.send(("ready", None))
        bases = _SharedBases(evaluator.width)
        with contextlib.closing(evaluator):
            while (message := pipe.recv()) is not None:
                task, address, count = message
                pipe.send(answer(evaluator, task, bases.at(address, count)))


class _SharedBases:
    """The parent's shared memory as an array."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.view: View | None = None

    def at(self, address: str, count: int) -> np.ndarray:
        if self.view is None or self.view.address != address:
            if self.view is not None:
                self.view.close()
            self.view = View(address)
        return np.ndarray((count, self.width), dtype=np.float32, buffer=self.view.buf)


def _exit_with_parent() -> None:
    """Exit as soon as the parent has ended, even in the middle of an episode."""
    parent = mp.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
