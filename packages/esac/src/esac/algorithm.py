"""ESAC: a population evolves around a mean while soft actor-critic learns, and each helps the other."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from sextet_common import checkpoint, progress, runs
from sextet_common.errors import InputError, reading
from sextet_common.seeding import generator as random_of

from esac import rollout, saving
from esac.callbacks import Callback
from esac.collect import Collector
from esac.config import ESACConfig, changed
from esac.engine import Engine, ProcessEngine, SerialEngine
from esac.outputs import Evaluations, Outputs
from esac.policy import ActionMap, NumpyPolicy
from esac.population import Outcome, Population
from esac.replay import Replay
from esac.rollout import Episode
from esac.sac import SAC, Actor
from esac.saving import Best
from esac.worker import Evaluator, Job

JOB = "esac train"
Which = Literal["best", "mean", "sac"]
_KIND, _REPLAY = "esac", "esac replay"
_FREE = {"workers", "timeout", "engine"}  # who evaluates changes no number


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a generation brought: what callbacks are given.

    Parameters
    ----------
    number
        From 0.
    steps
        Environment steps so far, of population and gradient-based learning alike.
    returns
        Of each member's two episodes, shape (population, 2); without a population, (0, 2).
    origins
        What each member's base was: "mean", "crossed" or "sac".
    winners
        The winners' origins, the best first.
    values
        What is logged.
    """

    number: int
    steps: int
    returns: Float[np.ndarray, "population 2"]
    origins: tuple[str, ...]
    winners: tuple[str, ...]
    values: dict[str, float]


class ESAC:
    """Evolution-based soft actor-critic for continuous control.

    Each generation evaluates mirrored mutations of the mean, of the mean crossed with the last generation's winners,
    and of the gradient-trained policy; ranks move the mean. While workers evaluate, soft actor-critic learns: at every
    few generations, with a probability that falls exponentially.

    Parameters
    ----------
    env
        A name for gymnasium's make, or a function without arguments that makes an environment (with workers: one that
        can be imported).
    config
        The settings.
    seed
        Of everything: results are the same for any number of workers.
    device
        Of the networks; a CPU is faster for policies of this size.
    options
        For gymnasium's make.

    References
    ----------
    ESAC, arXiv 2007.13690. See the documentation for what its public code does otherwise.
    """

    def __init__(
        self,
        env: str | Callable[[], gymnasium.Env[Any, Any]],
        config: ESACConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.seed, self.device = config or ESACConfig(), seed, device
        config = self.config
        self.job = Job(env, dict(options or {}), config.hidden, seed, config.on_nan, action=config.es_action)
        self._evaluator = Evaluator(self.job)
        self.env = self._evaluator.env
        self.shape = self._evaluator.policy.shape
        acts = self.env.action_space
        assert isinstance(acts, gymnasium.spaces.Box)
        self.population = Population(self.shape, config, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random_of(seed, "sac").integers(2**31)))
            self.sac = SAC(self.shape, acts.low, acts.high, config.sac, device)
        self.replay = Replay(config.sac.capacity, self.shape.observations, self.shape.actions)
        self.collector = Collector(self.env, self._evaluator.most, self.sac, self.replay, config, seed)
        self.generation = self.steps = self.episodes = 0
        self.seconds = self.cpu_seconds = 0.0
        self.best = Best(-math.inf, self.population.mean.copy(), config.es_action)
        self.evaluations = Evaluations()
        self._explored = torch.Generator(self.sac.where).manual_seed(seed)

    @property
    def counted(self) -> int:
        """Steps as ``step_counter`` counts them."""
        return self.steps if self.config.step_counter == "env" else self.generation * self._evaluator.most

    def learn(
        self,
        total_steps: int,
        callback: Callback | None = None,
        out: str | os.PathLike[str] | None = None,
        *,
        progress_bar: bool = True,
        engine: Engine | None = None,
    ) -> ESAC:
        """Learn.

        Parameters
        ----------
        total_steps
            Environment steps: a lower bound, since generations are finished.
        callback
            Called after every generation with the learner and what it brought; returning False stops.
        out
            A run folder; a stopped run is gone on with, to the same numbers.
        progress_bar
            Show one, where there is a terminal.
        engine
            Who evaluates: by default what ``config.workers`` says.

        Returns
        -------
        ESAC
            Itself.

        Raises
        ------
        InputError
            Where a setting does not fit, or the folder holds something else.
        WorkerError
            Where workers fail again and again.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the generation is checkpointed and all workers are gone.
        """
        run = None if out is None else runs.Run.open(out, JOB, self._record())
        found = None if run is None else run.resume()
        if run is not None and found is not None:
            with reading(run.checkpoints, "checkpoints of this run"):
                saving.take(self, found)
        outputs = None if run is None else Outputs(run, str(self._record()["env"]), self.generation + 1)
        own = engine is None
        workers = engine or _engine(self.job, self.config)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        try:
            with (
                progress.bar("ESAC", total_steps, done=min(self.counted, total_steps)) as bar,
                runs.interruptible() as stop,
            ):
                while self.counted < total_steps:
                    before, steps = self.counted, self.steps
                    brought, episodes = self._one(workers)
                    if progress_bar:
                        bar.advance(self.counted - before, best=self.best.reward)
                    if outputs is not None:
                        outputs.generation(self.generation, brought.values, episodes)
                    go_on = callback is None or callback(self, brought) is not False
                    last = stop() or self.counted >= total_steps or not go_on
                    every = self.config.checkpoint_every
                    if run is not None and outputs is not None and (last or self.steps // every > steps // every):
                        self.policy().save(run.path / "best.npz")
                        outputs.flush(self.evaluations)
                        # The last thing: after a kill, a finished run has nothing to go on with.
                        checkpoint.save_step(run.checkpoints, self.generation, *saving.state(self))
                    if last:
                        break
        finally:
            torch.set_num_threads(threads)
            if own:
                workers.close()
        return self

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, None]:
        """Return the action for an observation, or those for several: Stable-Baselines3's form, so that its tools work.

        Parameters
        ----------
        observation
            Shape (observations,) or (n, observations).
        state, episode_start
            Not used.
        deterministic
            The mean action; otherwise one that the gradient-trained policy samples.

        Returns
        -------
        tuple
            The action, and None.
        """
        rows = np.asarray(observation, dtype=np.float32)
        if deterministic:
            policy = self.policy()
            return (policy(rows) if rows.ndim == 1 else policy.batch(rows)), None
        table = torch.tensor(np.atleast_2d(rows), device=self.sac.where)
        with torch.no_grad():
            noise = torch.randn(len(table), self.shape.actions, generator=self._explored, device=self.sac.where)
            actions, _ = self.sac.actor.sample(table, noise)
        found: np.ndarray = actions.cpu().numpy()
        return (found[0] if rows.ndim == 1 else found), None

    def policy(self, which: Which = "best") -> NumpyPolicy:
        """Return a policy: the best evaluated so far, the population's mean, or the gradient-trained one."""
        found: dict[str, tuple[np.ndarray, ActionMap]] = {
            "best": (self.best.vector, self.best.action),
            "mean": (self.population.mean, self.config.es_action),
            "sac": (self.sac.actor.vector(), "tanh"),
        }
        if which not in found:
            raise InputError(f"policy {which!r}", ", ".join(found))
        return rollout.numpy_policy(self.env, self.config.hidden, *found[which])

    def to_module(self, which: Which = "best") -> torch.nn.Module:
        """Return a policy as a torch module, from observations (n, observations) to actions (n, actions)."""
        acts = self.env.action_space
        assert isinstance(acts, gymnasium.spaces.Box)
        policy = self.policy(which)
        actor = Actor(self.shape, acts.low, acts.high, policy.action)
        actor.take(policy.vector)
        return actor.eval()

    def evaluate(self, which: Which = "best", episodes: int = 10, seed: int | None = None) -> list[Episode]:
        """Run episodes of a deterministic policy, on resets of their own.

        Parameters
        ----------
        which
            best, mean or sac.
        episodes
            How many.
        seed
            Of the resets: the learner's, with a purpose of its own, where not given.

        Returns
        -------
        list of Episode
            The episodes.
        """
        policy = self.policy(which)
        entropy = (self.seed if seed is None else seed, 0xEA)
        resets = np.random.SeedSequence(entropy).generate_state(episodes) >> 1
        most = self._evaluator.most
        return [rollout.episode(self.env, policy, int(reset), most=most, on_nan="penalise") for reset in resets]

    def save(self, path: str | os.PathLike[str], *, replay: bool = True) -> Path:
        """Save everything that learning goes on from, as one file without pickles.

        Parameters
        ----------
        path
            The file.
        replay
            Keep the transitions too: without them learning goes on, but to other numbers.
        """
        arrays, meta = saving.state(self, replay=replay)
        checkpoint.save(path, arrays, {**meta, "kind": _KIND, "config": self._record(), "replay": replay})
        return Path(path)

    def save_replay(self, path: str | os.PathLike[str]) -> Path:
        """Save the transitions alone.

        Parameters
        ----------
        path
            The file.
        """
        arrays = {key: torch.from_numpy(value) for key, value in self.replay.state().items()}
        checkpoint.save(path, arrays, {"kind": _REPLAY})
        return Path(path)

    def load_replay(self, path: str | os.PathLike[str]) -> None:
        """Take transitions that `save_replay` wrote, instead of those here.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        InputError
            Where the file is missing, damaged, or of another environment.
        """
        loaded = checkpoint.load(path, "torch")
        if loaded.meta.get("kind") != _REPLAY:
            raise InputError(f"{path} is a checkpoint of {loaded.meta.get('kind', 'something else')}", "a saved replay")
        with reading(path, "a saved replay of this environment"):
            self.replay.load({key: array.numpy() for key, array in loaded.arrays.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: str | Callable[[], gymnasium.Env[Any, Any]] | None = None) -> ESAC:
        """Read a saved learner.

        Parameters
        ----------
        path
            The file.
        env
            The environment, where it was a function or its name has a module in it; other names are in the file.

        Raises
        ------
        InputError
            Where the file is missing, damaged, or holds something else.
        """
        loaded = checkpoint.load(path, "torch")
        if loaded.meta.get("kind") != _KIND:
            raise InputError(f"{path} is a checkpoint of {loaded.meta.get('kind', 'something else')}", "a saved ESAC")
        with reading(path, "a saved ESAC"):
            told = dict(loaded.meta["config"])
            if env is None:
                env = rollout.named_in_a_file(told["env"], path)
            config = changed(told["config"])
            within = sum(config.hidden) + sum(a * b for a, b in itertools.pairwise(config.hidden))
            if within > loaded.arrays["best"].numel():  # before so many are made
                raise InputError(f"{path} has layers of {config.hidden}", f"{loaded.arrays['best'].numel()} weights")
            made = cls(env, config, seed=int(told["seed"]), options=told["options"])
            saving.take(made, loaded)
        return made

    def _one(self, engine: Engine) -> tuple[Generation, list[tuple[str, Episode]]]:
        """Run one generation: start the population, learn by gradients meanwhile, then move the mean."""
        began, processor = time.perf_counter(), time.process_time()
        t, config, before = self.generation, self.config, self.steps
        values: dict[str, float] = {}
        evolves = config.mode != "sac"
        if evolves:
            brood = self.population.brood(t, self.sac.actor.vector())
            engine.start(brood.bases, brood.tasks)
        episodes = self._gradients(t, values)
        values["time/sac_s"] = time.perf_counter() - began
        outcome = Outcome(np.zeros((0, 2)), (), {})
        origins: tuple[str, ...] = ()
        if evolves:
            waited = time.perf_counter()
            found = engine.finish()
            values["time/wait_s"] = time.perf_counter() - waited
            for e in found:
                if e.transitions is not None and not e.failed:
                    self.replay.add(e.transitions)
            outcome, origins = self.population.evolve(t, brood, found), brood.origins
            episodes += [(origins[number // 2], e) for number, e in enumerate(found)]
        values |= outcome.values
        self.generation += 1
        self.episodes += len(episodes)
        self.steps += sum(e.length for _, e in episodes)
        good = [e for _, e in episodes if not e.failed]
        if good:
            values |= {"rollout/ep_rew_mean": float(np.mean([e.total for e in good])),
                       "rollout/ep_len_mean": float(np.mean([e.length for e in good]))}  # fmt: skip
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - processor
        if t == 0 or self.steps // config.eval_every > before // config.eval_every:
            judged = time.perf_counter()
            self._judge(values)
            values["time/eval_s"] = time.perf_counter() - judged
        values |= {"time/env_steps": float(self.steps), "time/seconds": self.seconds,
                   "time/cpu_seconds": self.cpu_seconds, "time/fps": self.steps / max(self.seconds, 1e-9)}  # fmt: skip
        return Generation(t, self.steps, outcome.returns, origins, outcome.winners, values), episodes

    def _gradients(self, t: int, values: dict[str, float]) -> list[tuple[str, Episode]]:
        """Let soft actor-critic act and learn, where a generation has the chance and takes it."""
        count = 1
        if self.config.mode == "es":
            return []
        if self.config.mode == "esac":
            values["sac/p"], taken = self.collector.chance(t, self.counted)
            count = self.config.sac_episodes if taken else 0
        found = []
        for number in range(count):
            e, losses = self.collector.episode(t, number)
            values |= losses
            found.append(("sac", e))
        if found:
            values |= {"sac/return": float(np.mean([e.total for _, e in found])), "sac/episodes": float(count)}
        values["sac/updates"] = float(self.collector.updates)
        return found

    def _judge(self, values: dict[str, float]) -> None:
        """Evaluate mean and gradient-trained policy, keep the best, and take the mean over where it is better."""
        kinds: list[Which] = {"es": ["mean"], "sac": ["sac"], "esac": ["mean", "sac"]}[self.config.mode]  # type: ignore[assignment]
        found = {which: self.evaluate(which, self.config.eval_episodes) for which in kinds}
        when = float(self.steps), self.seconds, self.cpu_seconds
        self.evaluations.add(when, {str(which): episodes for which, episodes in found.items()})
        means = {}
        for which, episodes in found.items():
            totals = [e.total for e in episodes]
            means[which] = float(np.mean(totals))
            values[f"eval/{which}_mean_reward"] = means[which]
            values[f"eval/{which}_std_reward"] = float(np.std(totals)) if math.isfinite(means[which]) else math.nan
            if means[which] > self.best.reward:
                policy = self.policy(which)
                self.best = Best(means[which], policy.vector, policy.action)
        values["eval/best_mean_reward"] = self.best.reward
        if self.config.sync and len(means) == 2 and means["mean"] > means["sac"]:
            self.sac.actor.take(self.population.mean)

    def _record(self) -> dict[str, Any]:
        name = self.job.env if isinstance(self.job.env, str) else getattr(self.job.env, "__qualname__", "own")
        settings = runs.to_json(self.config)
        return {"env": name, "options": self.job.options, "seed": self.seed,
                "config": {k: v for k, v in settings.items() if k not in _FREE}}  # fmt: skip


def _engine(job: Job, config: ESACConfig) -> Engine:
    """Return what a configuration's workers are."""
    if not config.workers:
        return SerialEngine(job)
    if config.engine == "processes":
        return ProcessEngine(job, config.workers, timeout=config.timeout)
    from esac.engine_ray import RayEngine

    return RayEngine(job, config.workers, timeout=config.timeout)
