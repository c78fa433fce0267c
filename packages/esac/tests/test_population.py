"""Optimizers of the population and the normalisation of observations: oracles, and equal results in all ways to run."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cmaes
import gymnasium
import numpy as np
import pytest
from esac import ESAC, ESACConfig, NumpyPolicy, PolicyShape, changed
from esac.es import optimizers
from esac.play.normalize import Moments
from esac.play.rollout import Episode
from esac.play.task import Evaluator, Job, Task, noise
from hypothesis import given, settings, strategies as st
from sextet_common.errors import InputError
from sextet_common.seeding import derive

STEPS = 15
ES: dict[str, Any] = {"mode": "es", "population": 4, "sigma": 0.3, "es_lr": 0.2, "eval_every": 200,
                      "eval_episodes": 1, "checkpoint_every": 100}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "ars": {"es_top": 2}, "openai": {"es_hidden": (4,)}, "pgpe": {"es_episodes": 2}, "cma": {"reward_shift": 1.0},
}  # fmt: skip


def learner(**words: Any) -> ESAC:
    return ESAC("Pendulum-v1", changed({**ES, **words}), seed=2, options={"max_episode_steps": STEPS})


def reset_seed(seed: int, generation: int, member: int) -> int:
    return int(np.random.SeedSequence((seed, 0xE5, generation, member)).generate_state(1)[0]) >> 1


class PlainARS:
    """Augmented random search with running normalisation, written down from its paper."""

    def __init__(self, seed: int, pairs: int, top: int, std: float, step: float) -> None:
        self.seed, self.pairs, self.top, self.std, self.step = seed, pairs, top, std, step
        self.env = gymnasium.make("Pendulum-v1", max_episode_steps=STEPS)
        self.weights, self.seen = np.zeros((1, 4)), np.zeros((0, 3))

    def rollout(self, weights: np.ndarray, reset: int, seen: list[np.ndarray]) -> float:
        mean = self.seen.mean(axis=0) if len(self.seen) else np.zeros(3)
        std = self.seen.std(axis=0) if len(self.seen) else np.ones(3)
        observation, _ = self.env.reset(seed=reset)
        total, done = 0.0, False
        while not done:
            seen.append(observation)
            action = 2 * np.tanh(weights @ [*((observation - mean) / std), 1.0])
            observation, reward, _, done, _ = self.env.step(action.astype(np.float32))
            total += float(reward)
        return total

    def generation(self, number: int) -> np.ndarray:
        draws = [noise(self.seed, number, k, 4).astype(float).reshape(1, 4) for k in range(self.pairs)]
        seen: list[np.ndarray] = []
        returns = np.array([
            [self.rollout(self.weights + s * self.std * d, reset_seed(self.seed, number, k), seen) for s in (1, -1)]
            for k, d in enumerate(draws)
        ])  # fmt: skip
        best = sorted(range(self.pairs), key=lambda k: -max(returns[k]))[: self.top]
        spread = np.std([returns[k][s] for k in best for s in (0, 1)])
        move = sum((returns[k][0] - returns[k][1]) * draws[k] for k in best)
        self.weights = self.weights + self.step / (self.top * spread) * move
        self.seen = np.concatenate([self.seen, seen])
        return returns


def test_ars_is_plain_augmented_random_search() -> None:
    plain, returns = PlainARS(2, pairs=4, top=2, std=0.3, step=0.2), []
    model = learner(es_top=2).learn(6 * 8 * STEPS, lambda _, done: returns.append(done.returns))
    for number, ours in enumerate(returns):
        np.testing.assert_allclose(ours, plain.generation(number), rtol=1e-4)  # float32 policies
    np.testing.assert_allclose(model.population.mean, plain.weights[0], rtol=1e-3, atol=1e-4)
    assert model.inputs is not None and len(returns) == 6
    np.testing.assert_allclose(
        model.inputs, [plain.seen.mean(axis=0), 1 / plain.seen.std(axis=0)], rtol=1e-5, atol=1e-7
    )


def test_cma_is_the_package_cmaes_with_draws_keyed_by_the_generation() -> None:
    returns: list[np.ndarray] = []
    model = learner(es_method="cma", normalize=False).learn(5 * 8 * STEPS, lambda _, done: returns.append(done.returns))
    plain, env = cmaes.CMA(np.zeros(4), 0.3, population_size=8), gymnasium.make("Pendulum-v1", max_episode_steps=STEPS)
    for number, ours in enumerate(returns):
        plain.reseed_rng(derive(2, "cma", number) % 2**32)
        told = []
        for k in range(8):
            weights = plain.ask()
            observation, _ = env.reset(seed=reset_seed(2, number, k // 2))
            total, done = 0.0, False
            while not done:
                action = 2 * np.tanh(weights[:3] @ observation + weights[3:])
                observation, reward, _, done, _ = env.step(action.astype(np.float32))
                total += float(reward)
            told.append((weights, -total))
        np.testing.assert_allclose(ours.flatten(), [-value for _, value in told], rtol=1e-4)
        plain.tell(told)
    np.testing.assert_allclose(model.population.mean, plain.mean, rtol=1e-3, atol=1e-5)
    assert model.population.sigma == pytest.approx(plain._sigma, rel=1e-3) != 0.3


def test_pgpe_is_its_formulas_weight_by_weight() -> None:
    config = ESACConfig(mode="es", es_method="pgpe", population=3, sigma=0.2, es_lr=0.1, es_std_lr=0.3)
    search = optimizers.make(PolicyShape(2, 1, ()), config, 7)
    assert isinstance(search, optimizers.PGPE)
    fitness, speed = np.array([[3.0, 1.0], [7.0, 2.0], [0.0, 9.0]]), np.zeros(3)
    ranks = (np.array([[3, 1], [4, 2], [0, 5]]) / 5) - 0.5
    mean, std = search.mean.astype(float), np.full(3, 0.2)
    for number in range(3):
        rows, tasks = search.ask(number)
        np.testing.assert_allclose(rows, [mean, std], rtol=1e-4, atol=1e-6)
        assert [(task.base, task.sign, task.sigma, task.spread) for task in tasks] == [(0, 1, 1, 1), (0, -1, 1, 1)] * 3
        towards, growth = np.zeros(3), np.zeros(3)
        for member in range(3):
            move = noise(7, number, member, 3) * std
            towards += (ranks[member, 0] - ranks[member, 1]) / 2 * move / 3
            growth += (ranks[member, 0] + ranks[member, 1]) / 2 * (move**2 - std**2) / std / 3
        search.tell(number, fitness, np.ones(3, bool))
        speed = 0.9 * speed + 0.1 * towards / np.linalg.norm(towards)  # ClipUp
        speed *= min(1, 0.2 / np.linalg.norm(speed))
        mean, std = mean + speed, std + np.clip(0.3 * growth, -0.2 * std, 0.2 * std)
    np.testing.assert_allclose(search.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(search.std, std, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_optimizer_climbs_a_hill(method: str) -> None:
    goal = np.array([1.0, -2.0, 0.5, 1.5], np.float32)
    config = changed({**ES, "es_method": method, "population": 8, "sigma": 0.1, "es_lr": 0.1})
    shape = PolicyShape(3, 1, ())
    search = optimizers.make(shape, config, 0)
    for number in range(150):
        rows, tasks = search.ask(number)
        vectors = search.candidates(number, rows, list(range(16)))
        for task, vector in zip(tasks[:4], vectors, strict=False):  # candidates are what workers evaluate
            spread = 1 if task.spread is None else rows[task.spread]
            np.testing.assert_allclose(
                vector, rows[task.base] + task.sign * task.sigma * noise(0, number, task.member, 4) * spread, rtol=1e-5
            )
        search.tell(number, -np.square(vectors - goal).sum(axis=1).reshape(8, 2), np.ones(8, bool))
    assert np.square(search.mean - goal).sum() < 0.05 * np.square(goal).sum()


def same(a: ESAC, b: ESAC) -> bool:
    x, y = a.state(), b.state()
    for each in (x, y):
        each.pop("seconds"), each.pop("cpu_seconds")
        each["evaluations.when"] = each["evaluations.when"][:, 0]
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_resumes_with_other_workers_to_the_same_numbers(method: str, tmp_path: Path) -> None:
    words = {"es_method": method, **METHODS[method]}
    script = f"""
import os, signal, esac
def kill(model, generation):
    if generation.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
config = esac.changed({ {**ES, **words}!r})
esac.ESAC("Pendulum-v1", config, seed=2, options={{"max_episode_steps": {STEPS}}}).learn(10**6, kill, out="run")
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    steps = 8 * 16 * STEPS
    resumed = learner(**words, workers=2).learn(steps, out=tmp_path / "run")
    assert same(resumed, learner(**words).learn(steps)) and resumed.moments.count == resumed.steps


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_population_learns_on_to_the_same_numbers(method: str, tmp_path: Path) -> None:
    first = learner(es_method=method, **METHODS[method]).learn(300)
    loaded = ESAC.load(first.save(tmp_path / "e.safetensors"))
    assert same(first, loaded) and same(first.learn(900), loaded.learn(900))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.floats(-1e6, 1e6), st.integers(0, 2**32 - 1))
def test_merged_moments_are_those_of_all_rows(lengths: list[int], offset: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(offset, 3, size=(length, 2)) for length in lengths]
    merged = Moments.empty(2).merge_all([Moments.of(part) if len(part) else None for part in parts])
    rows = np.concatenate(parts)
    assert merged.count == len(rows)
    if len(rows):
        np.testing.assert_allclose(merged.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(merged.squares / len(rows), rows.var(axis=0), rtol=1e-6, atol=1e-9 * abs(offset))


def test_a_constant_observation_is_passed_on_as_zero() -> None:
    inputs = Moments.of(np.array([[1.0, 7.0], [3.0, 7.0]])).inputs()
    assert inputs.tolist() == [[2.0, 7.0], [1.0, 0.0]]
    assert Moments.empty(2).inputs().tolist() == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_policy_file_holds_the_normalisation(suffix: str, tmp_path: Path) -> None:
    model = learner().learn(400)
    policy, seen = model.policy("mean"), np.array([0.3, -0.2, 4.0])
    policy.save(tmp_path / f"p.{suffix}")
    loaded = NumpyPolicy.load(tmp_path / f"p.{suffix}")
    assert (loaded(seen) == policy(seen)).all() and policy.inputs is not None and (policy.inputs[1] != 1).all()
    weights, bias = policy.vector[:3], policy.vector[3]
    expected = 2 * np.tanh(weights @ ((seen - policy.inputs[0]) * policy.inputs[1]) + bias)
    np.testing.assert_allclose(policy(seen), [expected], rtol=1e-5)
    np.testing.assert_allclose(policy.batch(seen[None]), [[expected]], rtol=1e-5)
    import torch

    np.testing.assert_allclose(model.to_module("mean")(torch.tensor(seen[None], dtype=torch.float32)).detach(),
                               [[expected]], rtol=1e-4)  # fmt: skip


def test_the_mean_of_several_episodes_with_the_shift_taken_off_is_what_counts() -> None:
    model = learner(es_episodes=2, reward_shift=3.0, es_shaping="returns", population=2)
    offspring = model.population.offspring(0, None, model.inputs)
    assert [(t.member, t.sign, t.episode) for t in offspring.tasks[:4]] == [
        (0, 1, 0),
        (0, 1, 1),
        (0, -1, 0),
        (0, -1, 1),
    ]
    totals, lengths = [1.0, 3.0, 8.0, 4.0, 0.0, 2.0, 5.0, 5.0], [2, 2, 1, 3, 1, 1, 4, 2]
    before = model.population.mean.copy()
    outcome = model.population.evolve(0, offspring, [Episode(*pair) for pair in zip(totals, lengths, strict=True)])
    assert outcome.returns.tolist() == [[2.0, 6.0], [1.0, 5.0]]
    fitness = np.array([[2.0 - 6, 6.0 - 6], [1.0 - 3, 5.0 - 9]])
    move = sum((fitness[m, 0] - fitness[m, 1]) * noise(2, 0, m, 4) for m in range(2)) / (2 * fitness.std())
    np.testing.assert_allclose(model.population.mean - before, 0.2 * move, rtol=1e-5)


def test_episodes_of_one_candidate_start_from_different_resets() -> None:
    evaluator = Evaluator(Job("Pendulum-v1", {"max_episode_steps": 5}, ()))
    totals = [evaluator(Task(0, 0, 0, 0, 0.0, episode=k), np.zeros((1, 4), np.float32)).total for k in range(3)]
    assert len(set(totals)) == 3 and all(map(math.isfinite, totals))


def test_cma_of_a_large_policy_is_refused() -> None:
    with pytest.raises(InputError, match=r"CMA-ES of \d+ weights; expected: at most 2000: es_hidden=\(\)"):
        learner(es_method="cma", es_hidden=(64, 64))


def test_pure_evolution_builds_no_replay_and_no_gradient_trained_policy() -> None:
    class Wide(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1, 1, (4000,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

    model = ESAC(Wide, ESACConfig(mode="es"))  # a replay would take 32 GB
    assert model.gradients is None
    for use in (lambda: model.sac, lambda: model.policy("sac"), lambda: model.save_replay("x")):
        with pytest.raises(InputError, match="mode es has no gradient-trained policy and no replay"):
            use()
    assert not os.path.exists("x")
