"""ESAC: a population evolves around a mean while soft actor-critic learns, and each helps the other."""

from __future__ import annotations

import dataclasses
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
from sextet_common.errors import InputError
from sextet_common.seeding import generator as random_of

from esac import evolution, rollout
from esac.config import ESACConfig, config_from
from esac.engine import Engine, Evaluator, Job, ProcessEngine, SerialEngine, Task
from esac.policy import NumpyPolicy
from esac.replay import Replay
from esac.rollout import Episode
from esac.sac import SAC, Actor

_KIND = "esac"


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
        Of each member's two episodes, shape (population, 2).
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


Callback = Callable[["ESAC", Generation], bool | None]


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
        self.job = Job(env, dict(options or {}), self.config.hidden, seed, self.config.on_nan)
        self._evaluator = Evaluator(self.job)
        self.env = self._evaluator.env
        self.shape = self._evaluator.policy.shape
        acts = self.env.action_space
        assert isinstance(acts, gymnasium.spaces.Box)
        self.mean = self.shape.initial(self._random("mean"))
        torch.manual_seed(int(self._random("sac").integers(2**31)))
        self.sac = SAC(self.shape, acts.low, acts.high, self.config.sac, device)
        self.replay = Replay(self.config.sac.capacity, self.shape.observations, self.shape.actions)
        self.ascent = evolution.Ascent(self.shape.size, self.config.es_lr, self.config.es_optimizer, self.config.l2)
        self.sigma = self.config.sigma
        self.hindsight = np.tile(self.mean, (max(1, self.config.winners), 1))
        self.generation = self.steps = self.episodes = self.updates = self.sac_steps = 0
        self.best: tuple[float, np.ndarray] = (-math.inf, self.mean.copy())
        self.seconds = 0.0

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
        run = None if out is None else runs.Run.open(out, "esac train", self._record())
        found = None if run is None else run.resume()
        if found is not None:
            self._take(found)
        own = engine is None
        workers = engine or (ProcessEngine(self.job, self.config.workers, timeout=self.config.timeout)
                             if self.config.workers else SerialEngine(self.job))  # fmt: skip
        try:
            with (
                progress.bar("ESAC", total_steps, done=min(self.steps, total_steps)) as bar,
                runs.interruptible() as stop,
            ):
                while self.steps < total_steps:
                    before, began = self.steps, time.perf_counter()
                    brought = self._one(workers)
                    self.seconds += time.perf_counter() - began
                    if progress_bar:
                        bar.advance(self.steps - before, best=self.best[0])
                    last = (
                        stop()
                        or self.steps >= total_steps
                        or (callback is not None and callback(self, brought) is False)
                    )
                    if run is not None:
                        self._log(run, brought)
                        if last or self.generation % self.config.checkpoint_every == 0:
                            checkpoint.save_step(run.checkpoints, self.generation, *self._state())
                    if last:
                        break
        finally:
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
            actions, _ = self.sac.actor.sample(
                table, torch.randn(len(table), self.shape.actions, device=self.sac.where)
            )
        found: np.ndarray = actions.cpu().numpy()
        return (found[0] if rows.ndim == 1 else found), None

    def policy(self, which: Literal["best", "mean", "sac"] = "best") -> NumpyPolicy:
        """Return a policy: the best evaluated so far, the population's mean, or the gradient-trained one."""
        vectors = {"best": self.best[1], "mean": self.mean, "sac": self.sac.actor.vector()}
        if which not in vectors:
            raise InputError(f"policy {which!r}", ", ".join(vectors))
        return rollout.numpy_policy(self.env, self.config.hidden, vectors[which])

    def to_module(self, which: Literal["best", "mean", "sac"] = "best") -> torch.nn.Module:
        """Return a policy as a torch module, from observations (n, observations) to actions (n, actions)."""
        acts = self.env.action_space
        assert isinstance(acts, gymnasium.spaces.Box)
        actor = Actor(self.shape, acts.low, acts.high)
        actor.take(self.policy(which).vector)
        return actor.eval()

    def evaluate(
        self, which: Literal["best", "mean", "sac"] = "best", episodes: int = 10, seed: int | None = None
    ) -> list[Episode]:
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
        arrays, meta = self._state()
        if not replay:
            arrays = {name: array for name, array in arrays.items() if not name.startswith("replay.")}
        checkpoint.save(path, arrays, {**meta, "kind": _KIND, "config": self._record(), "replay": replay})
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: str | Callable[[], gymnasium.Env[Any, Any]] | None = None) -> ESAC:
        """Read a saved learner.

        Parameters
        ----------
        path
            The file.
        env
            The environment, where it was a function; its name is in the file.

        Raises
        ------
        InputError
            Where the file is missing, damaged, or holds something else.
        """
        loaded = checkpoint.load(path, "torch")
        if loaded.meta.get("kind") != _KIND:
            raise InputError(f"{path} is a checkpoint of {loaded.meta.get('kind', 'something else')}", "a saved ESAC")
        told = dict(loaded.meta["config"])
        name = env or told["env"]
        config = config_from(told["config"])
        made = cls(name, config, seed=int(told["seed"]), options=told["options"])
        made._take(loaded)
        return made

    def _one(self, engine: Engine) -> Generation:
        """Run one generation: start the population, learn by gradients meanwhile, then move the mean."""
        config = self.config
        t = self.generation
        values: dict[str, float] = {}
        brought: Generation | None = None
        if config.mode != "sac":
            bases, origins = self._bases(t)
            tasks = [
                Task(member, t, member, sign, self.sigma, self._stored(origins[member]))
                for member in range(config.population)
                for sign in (1, -1)
            ]
            engine.start(bases, tasks)
        began = time.perf_counter()
        values |= self._gradients(t)
        values["time/sac_s"] = time.perf_counter() - began
        if config.mode != "sac":
            began = time.perf_counter()
            episodes = engine.finish()
            values["time/wait_s"] = time.perf_counter() - began
            brought = self._evolve(t, bases, origins, episodes, values)
        self.generation += 1
        if brought is None:
            brought = Generation(t, self.steps, np.full((1, 2), np.nan), (), (), values)
        if t % config.eval_every == 0:
            self._judge(values)
        return dataclasses.replace(brought, steps=self.steps)

    def _bases(self, t: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return a generation's bases: crossed ones, the mean itself, and the gradient-trained policy."""
        config = self.config
        bases = np.tile(self.mean, (config.population, 1))
        origins = ["mean"] * config.population
        if config.crossover != "none":
            for slot in range(config.winners):
                random = self._random("crossover", t, slot)
                bases[slot] = evolution.crossed(self.shape, self.hindsight[slot], self.mean, random, config.crossover)
                origins[slot] = "crossed"
        for slot in range(config.population - config.gradient_members, config.population):
            bases[slot] = self.sac.actor.vector()
            origins[slot] = "sac"
        return bases, tuple(origins)

    def _evolve(
        self, t: int, bases: np.ndarray, origins: tuple[str, ...], episodes: list[Episode], values: dict[str, float]
    ) -> Generation:
        """Take a generation's episodes: winners, the mean's move, the mutation's tuning."""
        config = self.config
        returns = np.array([e.total for e in episodes]).reshape(-1, 2)
        failed = np.array([e.failed for e in episodes]).reshape(-1, 2)
        lengths = sum(e.length for e in episodes)
        self.steps += lengths
        self.episodes += len(episodes)
        for e in episodes:
            if e.transitions is not None and not e.failed:
                self.replay.add(e.transitions)
        if failed.mean() > config.most_failed:
            first = next(e.message for e in episodes if e.failed)
            raise InputError(
                f"{int(failed.sum())} of {failed.size} episodes of generation {t} failed; the first: {first}",
                f"at most a share of {config.most_failed:g}",
            )
        ranks = evolution.shaped_ranks(returns.flatten()).reshape(-1, 2)
        members = [
            m for m in range(config.population)
            if not failed[m].any() and (config.es_gradient == "all" or origins[m] == "mean")
        ]  # fmt: skip
        noises = np.stack([evolution.noise(self.seed, t, m, self.shape.size) for m in range(config.population)])
        chosen = evolution.winners(
            np.where(failed.flatten(), np.nan, returns.flatten()), config.winners, config.selection,
            random=self._random("winners", t),
        )  # fmt: skip
        signs = (1, -1)
        if len(chosen):
            self.hindsight = np.stack(
                [bases[c // 2] + np.float32(signs[c % 2] * self.sigma) * noises[c // 2] for c in chosen.tolist()]
            )
        values |= {"es/sigma": self.sigma, "pop/failed": float(failed.sum())}
        if members and np.ptp(returns[members]) > 0:
            direction = evolution.gradient(ranks[members], noises[members], self.sigma)
            values["es/grad_norm"] = float(np.linalg.norm(direction))
            values["es/update_ratio"] = self.ascent.step(self.mean, direction)
        if config.amt_every and (t + 1) % config.amt_every == 0:
            self.sigma = evolution.tuned_sigma(
                self.sigma, returns.flatten(), lr=config.es_lr, pairs=config.population, clip=config.amt_clip,
                largest=max(config.sigma_max, config.sigma),
            )  # fmt: skip
        good = returns[~failed]
        if len(good):
            values |= {"pop/return_max": float(good.max()), "pop/return_mean": float(good.mean()),
                       "pop/return_min": float(good.min()), "pop/ep_len_mean": lengths / len(episodes)}  # fmt: skip
        for origin in dict.fromkeys(origins):
            mine = returns[[o == origin for o in origins]]
            values[f"pop/return_{origin}"] = (
                float(mine[np.isfinite(mine)].mean()) if np.isfinite(mine).any() else math.nan
            )
        return Generation(t, self.steps, returns, origins, tuple(origins[c // 2] for c in chosen.tolist()), values)

    def _gradients(self, t: int) -> dict[str, float]:
        """Let soft actor-critic act and learn, where a generation has the chance and takes it."""
        config = self.config
        if config.mode == "es":
            return {}
        if config.mode == "esac":
            share = config.sac_least + (1 - config.sac_least) * math.exp(-self.steps / config.sac_decay)
            if (t + 1) % config.sac_every or self._random("chance", t).random() >= share:
                return {"sac/p": share}
        values: dict[str, float] = {}
        for number in range(config.sac_episodes if config.mode == "esac" else 1):
            values = self._learned(t, number)
        return values

    def _learned(self, t: int, number: int) -> dict[str, float]:
        """Run one episode of the gradient-trained policy, with updates after each step."""
        config, most = self.config, self._evaluator.most
        random = self._random("episode", t, number)
        torch_random = torch.Generator(self.sac.where).manual_seed(int(random.integers(2**62)))
        acts = self.env.action_space
        assert isinstance(acts, gymnasium.spaces.Box)
        observation, _ = self.env.reset(seed=int(random.integers(2**31)))
        total, owed, found = 0.0, 0.0, {}
        for _ in range(most):
            if self.sac_steps < config.start_steps:
                action = random.uniform(acts.low, acts.high).astype(np.float32)
            else:
                noise = torch.randn(1, self.shape.actions, generator=torch_random, device=self.sac.where)
                with torch.no_grad():
                    seen = torch.tensor(observation, dtype=torch.float32, device=self.sac.where)[None]
                    action = self.sac.actor.sample(seen, noise)[0][0].cpu().numpy()
            following, reward, terminated, truncated, _ = self.env.step(action)
            if not math.isfinite(float(reward)) or not np.isfinite(following).all():
                if config.on_nan == "raise":
                    raise rollout.NotANumber(
                        f"step {self.sac_steps} of soft actor-critic brought a number that is none"
                    )
                break
            row = rollout.packed(observation, action, float(reward), following, bool(terminated))
            self.replay.add(row[None])
            total += float(reward)
            self.steps += 1
            self.sac_steps += 1
            owed += config.updates_per_step
            while owed >= 1 and len(self.replay) > config.sac.batch_size:
                batch = self.replay.sample(random, config.sac.batch_size, self.sac.where)
                noise = torch.randn(
                    2, config.sac.batch_size, self.shape.actions, generator=torch_random, device=self.sac.where
                )
                found = self.sac.update(batch, noise)
                self.updates += 1
                owed -= 1
            owed = min(owed, 1.0)
            observation = following
            if terminated or truncated:
                break
        values = {f"sac/{name}": float(value) for name, value in found.items()}
        if any(not math.isfinite(value) for value in values.values()):
            raise InputError(f"a loss of soft actor-critic is not finite at step {self.steps}, seed {self.seed}",
                             f"finite numbers: try an lr below {config.sac.lr:g}")  # fmt: skip
        return {**values, "sac/return": total, "sac/updates": float(self.updates)}

    def _judge(self, values: dict[str, float]) -> None:
        """Evaluate mean and gradient-trained policy, keep the best, and take the mean over where it is better."""
        kinds: list[Literal["mean", "sac"]] = ["mean"] if self.config.mode == "es" else ["sac"]
        if self.config.mode == "esac":
            kinds = ["mean", "sac"]
        found: dict[str, float] = {}
        for which in kinds:
            totals = [e.total for e in self.evaluate(which, self.config.eval_episodes)]
            found[which] = float(np.mean(totals))
            values[f"eval/{which}_mean_reward"] = found[which]
            values[f"eval/{which}_std_reward"] = float(np.std(totals))
            if found[which] > self.best[0]:
                self.best = found[which], self.policy(which).vector.copy()
        values["eval/best_mean_reward"] = self.best[0]
        if self.config.sync and len(found) == 2 and found["mean"] > found["sac"]:
            self.sac.actor.take(self.mean)

    def _stored(self, origin: str) -> bool:
        return self.config.store == "all" or (self.config.store == "injected" and origin == "sac")

    def _random(self, *keys: object) -> np.random.Generator:
        return random_of(self.seed, *(key if isinstance(key, str | int) else str(key) for key in keys))

    def _record(self) -> dict[str, Any]:
        name = self.job.env if isinstance(self.job.env, str) else getattr(self.job.env, "__qualname__", "own")
        settings = runs.to_json(self.config)
        free = {"workers", "timeout"}  # who evaluates changes no number
        return {"env": name, "options": self.job.options, "seed": self.seed,
                "config": {k: v for k, v in settings.items() if k not in free}}  # fmt: skip

    def _log(self, run: runs.Run, brought: Generation) -> None:
        values = {k: v for k, v in brought.values.items() if math.isfinite(v)}
        values |= {"time/env_steps": float(self.steps), "time/seconds": round(self.seconds, 3)}
        run.log(self.generation, **values)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return arrays and plain values from which learning goes on, to the same numbers."""
        arrays: dict[str, Any] = {"mean": torch.tensor(self.mean), "hindsight": torch.tensor(self.hindsight),
                                  "best": torch.tensor(self.best[1])}  # fmt: skip
        for name, module in (("actor", self.sac.actor), ("critics", self.sac.critics), ("slow", self.sac.slow)):
            arrays |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        arrays["log_alpha"] = self.sac.log_alpha.detach()
        optimizers = {"of_actor": self.sac.of_actor, "of_critics": self.sac.of_critics, "of_alpha": self.sac.of_alpha}
        for name, optimizer in optimizers.items():
            if optimizer is not None:
                for number, values in optimizer.state_dict()["state"].items():
                    arrays |= {f"{name}.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
        arrays |= {f"replay.{k}": torch.tensor(v) for k, v in self.replay.state().items()}
        arrays |= {f"ascent.{k}": torch.tensor(v) for k, v in self.ascent.state().items()}
        names = ("generation", "steps", "episodes", "updates", "sac_steps", "sigma", "seconds")
        meta = {name: getattr(self, name) for name in names}
        return arrays, {**meta, "step": self.generation, "best": None if math.isinf(self.best[0]) else self.best[0]}

    def _take(self, found: checkpoint.Checkpoint) -> None:
        arrays, meta = found.arrays, found.meta
        for name in ("generation", "steps", "episodes", "updates", "sac_steps", "sigma", "seconds"):
            setattr(self, name, meta[name])
        self.mean, self.hindsight, best = (arrays[name].numpy().copy() for name in ("mean", "hindsight", "best"))
        self.best = (-math.inf if meta["best"] is None else float(meta["best"]), best)
        for name, module in (("actor", self.sac.actor), ("critics", self.sac.critics), ("slow", self.sac.slow)):
            module.load_state_dict({k[len(name) + 1 :]: t for k, t in arrays.items() if k.startswith(f"{name}.")})
        with torch.no_grad():
            self.sac.log_alpha.copy_(arrays["log_alpha"])
        optimizers = {"of_actor": self.sac.of_actor, "of_critics": self.sac.of_critics, "of_alpha": self.sac.of_alpha}
        for name, optimizer in optimizers.items():
            if optimizer is None:
                continue
            whole = optimizer.state_dict()
            whole["state"] = {}
            for key, tensor in arrays.items():
                if key.startswith(f"{name}."):
                    number, leaf = key[len(name) + 1 :].split(".", 1)
                    whole["state"].setdefault(int(number), {})[leaf] = tensor
            optimizer.load_state_dict(whole)
        if "replay.rows" in arrays:
            self.replay.load({k: arrays[f"replay.{k}"].numpy() for k in ("rows", "at")})
        self.ascent.load({k: arrays[f"ascent.{k}"].numpy() for k in ("m", "v", "steps")})
