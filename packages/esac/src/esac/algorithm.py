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

from esac import sb3
from esac.config import ESACConfig, changed
from esac.engines.serial import Engine
from esac.evaluation import Which
from esac.generation import Generation, GenerationJob
from esac.learner import Learner
from esac.play.environment import name_from_file
from esac.play.policy import NumpyPolicy
from esac.play.rollout import Episode
from esac.play.vector import VectorSource
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

    ``ESAC(env, config)`` and Stable-Baselines3's ``ESAC("MlpPolicy", env, ...)`` are the same.

    Parameters
    ----------
    policy
        "MlpPolicy", or the environment itself, which the configuration then follows.
    env
        A name for ``gymnasium.make``, an environment (with workers: one that it made), or a function without arguments
        that makes one (with workers: one that can be imported). Observations that are dictionaries are flattened. Also
        a vector environment of gymnasium or Stable-Baselines3: the gradient-trained policy then plays an episode in all
        of its n environments at once, with n times ``updates_per_step`` updates a step; those that end earlier wait for
        the last one. Evaluations and the population use another environment like its first one.
    seed
        Seed of all random draws: results do not depend on the number of workers. None is 0.
    device
        Device of the networks; a CPU is faster for policies of this size.
    options
        Keyword arguments of ``gymnasium.make``.
    policy_kwargs
        ``dict(net_arch=[256, 256])``: units of the hidden layers of the gradient-trained policy and the critics.
    verbose
        1 prints a line for every evaluation.
    arguments
        Arguments of Stable-Baselines3's SAC: learning_rate, gamma, tau, batch_size, buffer_size, learning_starts and
        ent_coef.

    Attributes
    ----------
    logger
        Keeps what callbacks of Stable-Baselines3 record.

    References
    ----------
    ESAC, arXiv 2007.13690. The documentation lists where its public code differs.
    """

    def __init__(
        self,
        policy: Any = "MlpPolicy",
        env: Any = None,
        config: ESACConfig | None = None,
        *,
        seed: int | None = 0,
        device: str = "cpu",
        options: dict[str, Any] | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        verbose: int = 0,
        **arguments: Any,
    ) -> None:
        if not (isinstance(policy, str) and policy in sb3.POLICIES):
            if isinstance(policy, str) and policy.endswith("Policy"):
                raise InputError(f"the policy {policy!r}", " or ".join(sb3.POLICIES))
            policy, env, config = "MlpPolicy", policy, env if config is None else config
        config = sb3.configured(config, policy_kwargs, arguments)
        super().__init__(
            sb3.source(env), config, seed=0 if seed is None else seed, device="cpu" if device == "auto" else device,
            options=options,
        )  # fmt: skip
        self.verbose, self.logger = verbose, sb3.Logger()
        self._first_step = 0

    @property
    def num_timesteps(self) -> int:
        """Environment steps since learning began, or since the last `learn` that counted anew."""
        return self.steps - self._first_step

    def get_env(self) -> Any:
        """Return the environment of the gradient-trained policy: the vector environment if there is one."""
        return self.job.env.env if isinstance(self.job.env, VectorSource) else self.env

    def get_vec_normalize_env(self) -> None:
        """Return None: observations are normalised by the learner itself."""

    def learn(
        self,
        total_steps: int | None = None,
        callback: Callback | Sequence[Callback] | Any = None,
        out: str | os.PathLike[str] | None = None,
        *,
        total_timesteps: int | None = None,
        reset_num_timesteps: bool = True,
        log_interval: int = 1,
        progress_bar: bool = True,
        engine: Engine | None = None,
        log: Sequence[loggers.Name | loggers.Logger] = (),
    ) -> ESAC:
        """Learn, and return the learner itself.

        Parameters
        ----------
        total_steps
            Environment steps since the learner was made: a lower bound, since generations are completed.
        callback
            Called after every generation; returning False stops. Also a list, and callbacks of Stable-Baselines3.
        out
            Run folder; a stopped run resumes bit-identically, also with more steps or other ``Running`` settings.
        total_timesteps
            Environment steps from now on, as in Stable-Baselines3; instead of ``total_steps``.
        reset_num_timesteps
            With ``total_timesteps``: let `num_timesteps` start at 0 again.
        log_interval
            Evaluations between two lines, with ``verbose=1``.
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
        if (total_steps is None) == (total_timesteps is None):
            raise InputError(f"total_steps {total_steps} and total_timesteps {total_timesteps}", "one of them")
        steps = total_steps if total_timesteps is None else total_timesteps
        checks.check("total_steps" if total_timesteps is None else "total_timesteps", steps, checks.Natural)
        checks.check("log_interval", log_interval, checks.Count)
        if total_timesteps is not None:
            self._first_step = self.steps if reset_num_timesteps else self._first_step
            steps = self.counted + total_timesteps
        called = sb3.callbacks(callback, self) + ([sb3.Lines(log_interval)] if self.verbose else [])

        def after(generation: Generation) -> bool:
            return all([each(self, generation) is not False for each in called])

        job = GenerationJob(self, int(steps or 0), after, engine)
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
    def load(cls, path: str | os.PathLike[str], env: Any = None) -> ESAC:
        """Read a saved learner; it evaluates in this process, whatever workers it had.

        ``env`` is needed if it was no name, or one that contains a module; other names are in the file.
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
