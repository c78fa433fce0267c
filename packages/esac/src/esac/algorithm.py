"""ESAC: a population evolves around a mean beside a policy that soft actor-critic trains, and each helps the other."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from sextet_common import checkpoint, checks, loggers, training
from sextet_common.errors import STRUCTURE, InputError, reading

from esac.config import ESACConfig, changed
from esac.engines.serial import Engine
from esac.evaluation import Which
from esac.generation import Generation, GenerationJob
from esac.learner import Learner
from esac.play.environment import EnvSource, name_from_file
from esac.play.policy import NumpyPolicy
from esac.play.rollout import Episode
from esac.sac.actor import Actor, Normalise

Callback = Callable[["ESAC", Generation], bool | None]
"""Called with the learner and the generation that ended; returning False stops learning."""

_KIND, _REPLAY_KIND = "esac learner", "esac transitions"
_OLD_KINDS = ("esac", "esac replay")  # of 0.1, whose actions are in the environment's units
_SETTINGS = {"config": ESACConfig, "steps": "running", "device": "running"}  # what may differ on resuming
_OF_A_MACHINE = {"workers", "engine", "timeout"}  # a file starts no processes


class ESAC(Learner):
    """Evolution-based soft actor-critic for continuous control.

    Each generation evaluates mirrored mutations of the mean, of the mean crossed with the last generation's winners,
    and of the gradient-trained policy; the ranks move the mean. While workers evaluate, soft actor-critic learns: every
    few generations, with an exponentially decaying probability.

    Parameters
    ----------
    env
        A name for ``gymnasium.make``, or a function without arguments that makes an environment (with workers: one
        that can be imported).
    seed
        Seed of all random draws: results do not depend on the number of workers.
    device
        Device of the networks; a CPU is faster for policies of this size.
    options
        Keyword arguments of ``gymnasium.make``.

    References
    ----------
    ESAC, arXiv 2007.13690. The documentation lists where its public code differs.
    """

    def learn(
        self,
        total_steps: int,
        callback: Callback | None = None,
        out: str | os.PathLike[str] | None = None,
        *,
        progress_bar: bool = True,
        engine: Engine | None = None,
        log: Sequence[loggers.Name | loggers.Logger] = (),
    ) -> ESAC:
        """Learn, and return the learner itself.

        Parameters
        ----------
        total_steps
            Environment steps: a lower bound, since generations are completed.
        callback
            Called after every generation; returning False stops.
        out
            Run folder; a stopped run resumes bit-identically, also with more steps or other ``Running`` settings.
        progress_bar
            Show a progress bar if there is a terminal.
        engine
            Evaluates the population; by default the engine that the configuration names.
        log
            Trackers that follow the run: tensorboard, wandb, mlflow, or objects of their three methods.

        Raises
        ------
        WorkerError
            If workers fail too often in a row.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the generation is saved and all workers have ended.
        """
        checks.check("total_steps", total_steps, checks.Natural)
        job = GenerationJob(self, int(total_steps), lambda done: callback(self, done) if callback else None, engine)
        cadence = training.Cadence(log=0, checkpoint=self.config.checkpoint_every)
        with _torch_threads(self.config.threads), contextlib.closing(job):
            training.run(
                job, name="esac train", out=out, record={**self.record(), "steps": job.steps, "device": self.device},
                settings=_SETTINGS, cadence=cadence, label="ESAC", bar=progress_bar, log=log,
            )  # fmt: skip
        return self

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, None]:
        """Return actions and None, in Stable-Baselines3's form, so that its tools accept a learner.

        Parameters
        ----------
        observation
            Shape (observations,) or (n, observations).
        state, episode_start
            Ignored.
        deterministic
            Return the best policy's mean action; otherwise one sampled from the gradient-trained policy.
        """
        rows = np.asarray(observation, dtype=np.float32)
        if deterministic:
            policy = self.policy()
            return (policy(rows) if rows.ndim == 1 else policy.batch(rows)), None
        table = np.atleast_2d(rows) if self.inputs is None else (np.atleast_2d(rows) - self.inputs[0]) * self.inputs[1]
        actor, device = self.sac.actor, self.sac.device
        with torch.no_grad():
            noise = torch.randn(len(table), self.shape.actions, generator=self.sampling, device=device)
            sampled = actor.sample(torch.tensor(table, device=device), noise)[0]
            actions = (sampled * actor.scale + actor.bias).cpu().numpy()
        return (actions[0] if rows.ndim == 1 else actions), None

    def policy(self, which: Which = "best") -> NumpyPolicy:
        """Return the best policy so far, the population's mean, or the gradient-trained policy."""
        return self.evaluation.policy(which)

    def to_module(self, which: Which = "best") -> torch.nn.Module:
        """Return a policy as a torch module, from observations (n, observations) to actions (n, actions)."""
        space = self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        policy = self.policy(which)
        actor = Actor(policy.shape, space.low, space.high, policy.action)
        actor.load_vector(policy.vector)
        return (actor if policy.inputs is None else torch.nn.Sequential(Normalise(policy.inputs), actor)).eval()

    def evaluate(self, which: Which = "best", episodes: int = 10, seed: int | None = None) -> list[Episode]:
        """Run episodes of a deterministic policy from resets that learning does not use.

        ``seed`` is that of the resets; by default the learner's.
        """
        return self.evaluation.episodes(which, episodes, seed)

    def save(self, path: str | os.PathLike[str], *, replay: bool = True) -> Path:
        """Save everything that learning resumes from in one file without pickles.

        Without the transitions (``replay=False``) learning can go on, but not to the same numbers.
        """
        state = self.state(replay=replay)
        arrays = {key: value for key, value in state.items() if hasattr(value, "shape")}
        plain = {key: value for key, value in state.items() if key not in arrays}
        checkpoint.save(path, arrays, {**plain, "kind": _KIND, "config": self.record(), "replay": replay})
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: EnvSource | None = None) -> ESAC:
        """Read a saved learner; it evaluates in this process, whatever workers it had.

        ``env`` is needed if it was a function or if its name contains a module; other names are in the file.
        """
        arrays, meta = _read(path, _KIND, "a saved ESAC")
        with reading(path, "a saved ESAC", *STRUCTURE, RuntimeError):
            record = dict(meta["config"])
            if env is None:
                env = name_from_file(record["env"], path)
            config = changed({key: value for key, value in record["config"].items() if key not in _OF_A_MACHINE})
            stored = sum(array.numel() for array in arrays.values())
            for hidden in (config.es_hidden, config.hidden if config.mode != "es" else ()):
                units = sum(hidden) + sum(a * b for a, b in itertools.pairwise(hidden))
                if units > stored:  # before allocating the networks
                    raise InputError(f"{path} has layers of {hidden}", f"{stored} weights")
            learner = cls(env, config, seed=int(record["seed"]), options=record["options"])
            learner.load_state({**meta, **arrays})
        return learner

    def save_replay(self, path: str | os.PathLike[str]) -> Path:
        """Save the transitions alone."""
        checkpoint.save(path, self.replay.state(), {"kind": _REPLAY_KIND})
        return Path(path)

    def load_replay(self, path: str | os.PathLike[str]) -> None:
        """Replace the transitions with those that `save_replay` wrote."""
        arrays, _ = _read(path, _REPLAY_KIND, "a saved replay", "numpy")
        with reading(path, "a saved replay of this environment", KeyError, TypeError, RuntimeError):
            self.replay.load_state(arrays)


def _read(
    path: str | os.PathLike[str], kind: str, expected: str, framework: Literal["torch", "numpy"] = "torch"
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    loaded = checkpoint.load(path, framework)
    if loaded.meta.get("kind") in _OLD_KINDS:
        raise InputError(
            f"{path} was saved by esac 0.1, which stored actions in the environment's units",
            f"{expected} of a later version; policies of 0.1 can still be read (NumpyPolicy.load)",
        )
    if loaded.meta.get("kind") != kind:
        raise InputError(f"{path} is a checkpoint of {loaded.meta.get('kind', 'something else')}", expected)
    return loaded.arrays, loaded.meta


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
