from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from esac.algorithm import ESAC
from esac.config import ESACConfig
from esac.engines.ledger import WorkerError
from esac.engines.process import ProcessEngine
from esac.engines.serial import SerialEngine
from esac.es import evolution
from esac.es.ascent import Ascent
from esac.play import environment, rollout
from esac.play.policy import NumpyPolicy, PolicyShape
from esac.play.task import Evaluator, Job, Task, noise
from esac.sac.actor import Actor
from esac.sac.config import SACConfig
from esac.sac.replay import Batch, Replay
from esac.sac.update import SAC
from gymnasium import spaces
from scipy import stats
from sextet_common import checkpoint
from sextet_common.errors import InputError

SHAPE = PolicyShape(5, 2, (16, 8))
LOW, HIGH = np.array([-2.0, 0.0]), np.array([2.0, 1.0])
SMALL = ESACConfig(
    es_method="openai", es_hidden=(8, 8), crossover="row", es_gradient="all",
    population=4, elite=0.25, injected=1, sac_schedule="annealed", sac_every=1, sac_least=1.0, sac_episodes=1,
    start_steps=20, hidden=(8, 8),
    eval_every=200, eval_episodes=1, checkpoint_every=100, amt_every=1,
    sac=SACConfig(batch_size=8, capacity=5000),
)  # fmt: skip


class Walk(gymnasium.Env[Any, Any]):
    """A point that is pushed about; gives a reward that is no number, on demand."""

    def __init__(self, *, fault: bool = False) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self.action_space = spaces.Box(-2.0, 2.0, (1,))
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.step_number = self.np_random.normal(size=3).astype(np.float32), 0
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        self.state = np.float32(0.9) * self.state + np.float32(0.1) * np.array(
            [action[0], self.state[0], 1], np.float32
        )
        reward = -float(self.state[0] ** 2)
        if self.step_number == 5 and self.fault:
            reward = math.nan
        return self.state.copy(), reward, False, self.step_number >= 12, {}


def tasks(count: int, generation: int = 0, sigma: float = 0.1) -> list[Task]:
    return [Task(m % 2, generation, m, sign, sigma) for m in range(count) for sign in (1, -1)]


def pendulum(seed: int = 0) -> Job:
    return Job("Pendulum-v1", {"max_episode_steps": 20}, (8, 8), seed)


def bases(job: Job) -> np.ndarray:
    shape = Evaluator(job).policy.shape
    return np.stack([shape.initial(np.random.default_rng(k)) for k in range(2)])


def test_the_numpy_policy_is_the_torch_module() -> None:
    torch.manual_seed(0)
    actor = Actor(SHAPE, LOW, HIGH)
    policy = NumpyPolicy(SHAPE, LOW, HIGH, actor.vector())
    seen = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    with torch.no_grad():
        wanted = actor(torch.tensor(seen)).numpy()
    np.testing.assert_allclose(policy.batch(seen), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.stack([policy(row) for row in seen]), wanted, rtol=1e-5, atol=1e-6)
    assert (policy.batch(seen) >= LOW).all() and (policy.batch(seen) <= HIGH).all()
    other = Actor(SHAPE, LOW, HIGH)
    other.load_vector(actor.vector())
    np.testing.assert_array_equal(other.vector(), actor.vector())


def test_a_log_density_is_that_of_the_transformed_normal() -> None:
    torch.manual_seed(0)
    actor = Actor(PolicyShape(2, 1, (4,)), np.array([-2.0]), np.array([2.0])).double()
    seen, draw = torch.zeros(1, 2).double(), torch.tensor([[0.3]]).double()
    action, log_prob = actor.sample(seen, draw)
    mean, log_std = (float(x.detach()) for x in actor.distribution(seen))
    squash = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, math.exp(log_std)),
        [torch.distributions.TanhTransform()],
    )
    assert float(log_prob.detach()) == pytest.approx(float(squash.log_prob(action.detach())), abs=1e-5)


def test_the_losses_are_a_literal_reference_in_double_precision() -> None:
    torch.manual_seed(1)
    sac = SAC(SHAPE, LOW, HIGH, SACConfig(gamma=0.9, alpha=0.3))
    for module in (sac.actor, sac.critics, sac.target_critics):
        module.double()
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).double()

    batch = Batch(draw(6, 5), draw(6, 2), draw(6), draw(6, 5), torch.tensor([1, 0, 1, 1, 0, 1]).double())
    drawn = draw(6, 2)

    def q(critics: torch.nn.Module, which: int, seen: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = torch.cat([seen, action])
        for number, (w, b) in enumerate(zip(critics.weights, critics.biases, strict=True)):
            x = x @ w[which] + b[which, 0]
            x = x.relu() if number < 2 else x
        return x[0]

    total, policy = [], []
    for i in range(6):
        action, log_prob = sac.actor.sample(batch.next_observations[i : i + 1], drawn[i : i + 1])
        value = min(q(sac.target_critics, k, batch.next_observations[i], action[0]) for k in range(2))
        target = batch.rewards[i] + 0.9 * batch.mask[i] * (value - 0.3 * log_prob[0])
        total.append(sum((q(sac.critics, k, batch.observations[i], batch.actions[i]) - target) ** 2 for k in range(2)))
        action, log_prob = sac.actor.sample(batch.observations[i : i + 1], drawn[i : i + 1])
        policy.append(0.3 * log_prob[0] - min(q(sac.critics, k, batch.observations[i], action[0]) for k in range(2)))
    wide = float(sac.critic_loss(batch, drawn).detach())
    assert wide == pytest.approx(float(torch.stack(total).mean().detach()), rel=1e-6)
    loss, _ = sac.actor_loss(batch, drawn)
    assert float(loss.detach()) == pytest.approx(float(torch.stack(policy).mean().detach()), rel=1e-6)


def test_an_update_moves_everything_and_the_target_critics_a_little() -> None:
    torch.manual_seed(0)
    sac = SAC(SHAPE, LOW, HIGH, SACConfig(auto_alpha=True, tau=0.25))
    with pytest.raises(InputError, match="the replay's capacity is 1000000000000000 transitions"):
        Replay(10**15, 5, 2)
    replay = Replay(100, 5, 2)
    replay.add(np.random.default_rng(0).normal(size=(50, 14)).astype(np.float32))
    before = [p.clone() for p in sac.target_critics.parameters()]
    alpha = float(sac.log_alpha.detach())
    told = sac.update(replay.sample(np.random.default_rng(0), 16), torch.randn(2, 16, 2))
    assert all(math.isfinite(float(v)) for v in told.values()) and float(sac.log_alpha.detach()) != alpha
    for old, target, fast in zip(before, sac.target_critics.parameters(), sac.critics.parameters(), strict=True):
        torch.testing.assert_close(target.detach(), old.lerp(fast.detach(), 0.25))


def test_antithetic_pairs_are_exact() -> None:
    job = pendulum()
    evaluator, both = Evaluator(job), bases(job)
    seen = []
    for sign in (1, -1):
        evaluator(Task(0, 3, 1, sign, 0.5), both)
        seen.append(evaluator.policy.vector.copy())
    np.testing.assert_allclose((seen[0] + seen[1]) / 2, both[0], atol=1e-6)
    drawn = noise(0, 3, 1, both.shape[1])
    np.testing.assert_allclose((seen[0] - seen[1]) / 2, 0.5 * drawn, rtol=1e-5, atol=1e-6)
    assert stats.kstest(drawn, "norm").pvalue > 0.01


def test_crossover_takes_the_shares_that_row_swaps_amount_to() -> None:
    shape = PolicyShape(7, 3, (64, 64))
    zeros, ones = np.zeros(shape.size, np.float32), np.ones(shape.size, np.float32)
    weights, biases = [], []
    for trial in range(300):
        child = evolution.crossed(shape, ones, zeros, np.random.default_rng(trial))
        parts = shape.parts(child)[:2]
        assert all(set(row) in ({0.0}, {1.0}) for w, _ in parts for row in w.tolist())
        weights.append(np.mean([w.mean() for w, _ in parts]))
        biases.append(np.mean([b.mean() for _, b in parts]))
    assert np.mean(weights) == pytest.approx(0.5 * (1 - (1 - math.exp(-2)) / 2), abs=0.02)
    assert np.mean(biases) == pytest.approx(0.5 * math.exp(-1), abs=0.02)
    assert not evolution.crossed(shape, ones, zeros, np.random.default_rng(0), "none").any()
    for w, b in shape.parts(evolution.crossed(shape, ones, zeros, np.random.default_rng(5), "neuron")):
        np.testing.assert_array_equal(w.max(axis=1), b)


def test_crossover_is_what_swapping_rows_one_by_one_gives() -> None:
    rows, trials, random = 6, 4000, np.random.default_rng(0)
    literal = np.zeros(rows)
    for _ in range(trials):
        a, b = np.ones(rows), np.zeros(rows)
        for _ in range(random.integers(2 * rows)):
            j = random.integers(rows)
            if random.random() < 0.5:
                b[j] = a[j]
            else:
                a[j] = b[j]
        literal += b
    shape = PolicyShape(1, rows, ())
    found = np.zeros(rows)
    for trial in range(trials):
        one, zero = np.ones(shape.size, np.float32), np.zeros(shape.size, np.float32)
        found += shape.parts(evolution.crossed(shape, one, zero, np.random.default_rng(trial)))[0][0][:, 0]
    np.testing.assert_allclose(found / trials, literal / trials, atol=0.05)


def test_ranks_are_scipy_s_and_what_is_no_number_is_last() -> None:
    values = np.array([3.0, 1.0, 3.0, -5.0, 2.0])
    np.testing.assert_allclose(evolution.shaped_ranks(values), (stats.rankdata(values) - 1) / 4 - 0.5)
    assert evolution.shaped_ranks(np.array([np.nan, 0.0, 1.0]))[0] == -0.5
    assert not evolution.shaped_ranks(np.zeros(6)).any()
    assert evolution.winners(np.array([1.0, np.nan, 5.0, 5.0]), 2).tolist() == [2, 3]
    drawn = [
        int(evolution.winners(np.arange(4.0), 1, "softmax", random=np.random.default_rng(k))[0]) for k in range(400)
    ]
    z = (np.arange(4) - 1.5) / np.arange(4).std()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 400, np.exp(z) / np.exp(z).sum(), atol=0.08)


def test_the_mean_climbs_a_hill() -> None:
    goal, mean = np.random.default_rng(1).normal(size=20).astype(np.float32), np.zeros(20, np.float32)
    ascent = Ascent(20, 0.05)
    for t in range(200):
        noises = np.stack([noise(0, t, m, 20) for m in range(10)])
        totals = np.array([[-np.square(mean + s * 0.1 * e - goal).sum() for s in (1, -1)] for e in noises])
        ranks = evolution.shaped_ranks(totals.flatten()).reshape(-1, 2)
        ascent.step(mean, evolution.gradient(ranks, noises, 0.1))
    assert np.square(mean - goal).sum() < 0.1 * np.square(goal).sum()


def test_a_gradient_of_a_line_points_along_it() -> None:
    direction = np.random.default_rng(0).normal(size=8).astype(np.float32)
    noises = np.stack([noise(0, 0, m, 8) for m in range(4000)])
    ranks = np.stack([noises @ direction, -(noises @ direction)], axis=1)
    found = evolution.gradient(ranks, noises, 1.0)
    assert float(found @ direction / np.linalg.norm(found) / np.linalg.norm(direction)) > 0.99


def test_mutation_tuning_grows_by_its_clip_and_not_without_differences() -> None:
    grow = dict(lr=0.005, pairs=10, clip=1e-4, largest=0.006)
    assert evolution.tuned_sigma(0.005, np.array([0.0, 10.0]), **grow) == pytest.approx(0.0051)
    assert evolution.tuned_sigma(0.005, np.array([3.0, 3.0]), **grow) == 0.005
    assert evolution.tuned_sigma(0.00599, np.array([0.0, 10.0]), **grow) == 0.006
    assert evolution.tuned_sigma(0.005, np.array([np.nan]), **grow) == 0.005


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_engines_give_the_same_bits(workers: int) -> None:
    job = pendulum()
    both = bases(job)
    with SerialEngine(job) as serial, ProcessEngine(job, workers) as pool:
        for generation in range(2):
            serial.start(both, tasks(5, generation))
            pool.start(both, tasks(5, generation))
            assert serial.finish() == pool.finish()


def test_a_killed_worker_s_task_is_done_again_to_the_same_result() -> None:
    job = Job("Pendulum-v1", {"max_episode_steps": 2000}, (64, 64))
    both = bases(job)
    with SerialEngine(job) as serial, ProcessEngine(job, 2) as pool:
        serial.start(both, tasks(6))
        pool.start(both, tasks(6))
        time.sleep(0.2)
        os.kill(pool.processes()[0], signal.SIGKILL)
        assert pool.finish() == serial.finish()
        alive = pool.processes()
    for number in alive:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_workers_import_no_torch() -> None:
    script = "import sys, esac.engines.process; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


def test_what_is_not_finite_is_penalised_or_raised_and_never_stored() -> None:
    env = Walk(fault=True)
    policy = rollout.numpy_policy(env, (4,))
    found = rollout.episode(env, policy, 0, keep=True)
    assert found.failed and found.total == -math.inf and found.transitions is None and found.length == 5
    with pytest.raises(rollout.NonFiniteError, match="reward of step 5"):
        rollout.episode(env, policy, 0, on_nan="raise")
    with pytest.raises(InputError, match="8 of 8 episodes of generation 0 failed"):
        ESAC(lambda: Walk(fault=True), dataclasses.replace(SMALL, mode="es")).learn(100)


def test_truncation_is_no_termination() -> None:
    env = gymnasium.wrappers.TimeLimit(Walk(), 7)
    found = rollout.episode(env, rollout.numpy_policy(env, (4,)), 0, keep=True)
    assert found.length == 7 and found.transitions is not None
    assert found.transitions[:, -1].tolist() == [1.0] * 7
    np.testing.assert_array_equal(found.transitions[1:, :3], found.transitions[:-1, 5:8])
    assert float(found.transitions[:, 4].sum()) == pytest.approx(found.total, rel=1e-5)


def learner(seed: int = 0, **words: Any) -> ESAC:
    return ESAC("Pendulum-v1", dataclasses.replace(SMALL, **words), seed=seed, options={"max_episode_steps": 15})


def same(a: ESAC, b: ESAC) -> bool:
    x, y = a.state(), b.state()
    for each in (x, y):
        each.pop("seconds"), each.pop("cpu_seconds")
        each["evaluations.when"] = each["evaluations.when"][:, 0]
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)


def test_a_run_in_parts_is_the_run_in_one_whatever_the_engine(tmp_path: Path) -> None:
    whole = learner().learn(700)
    learner().learn(300, out=tmp_path / "run")
    again = learner(workers=2).learn(700, out=tmp_path / "run")
    assert same(whole, again) and again.generation > 3
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == again.generation


def test_a_saved_learner_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    first = learner().learn(300)
    first.save(tmp_path / "e.safetensors")
    loaded = ESAC.load(tmp_path / "e.safetensors")
    assert same(first, loaded) and same(first.learn(700), loaded.learn(700))
    seen = np.zeros((4, 3), np.float32)
    np.testing.assert_array_equal(first.predict(seen)[0], loaded.predict(seen)[0])
    with pytest.raises(InputError, match="does not exist"):
        ESAC.load(tmp_path / "none.safetensors")


def test_a_learner_saved_by_an_earlier_version_is_refused_and_its_policy_loads(tmp_path: Path) -> None:
    first = learner()
    for kind, path in (("esac", first.save(tmp_path / "e.st")), ("esac replay", first.save_replay(tmp_path / "r.st"))):
        saved = checkpoint.load(path, "torch")
        checkpoint.save(path, saved.arrays, {**saved.meta, "kind": kind})
    for read in (lambda: ESAC.load(tmp_path / "e.st"), lambda: first.load_replay(tmp_path / "r.st")):
        with pytest.raises(
            InputError, match=r"was saved by esac 0\.1, which stored actions in the environment's units"
        ):
            read()
    policy = {"hidden": np.array([2]), "observations": np.array(3), "action": np.array("tanh")}
    vector = np.arange(11, dtype=np.float32)
    np.savez(tmp_path / "old.npz", vector=vector, low=np.float32([-2]), high=np.float32([2]), **policy)
    assert (NumpyPolicy.load(tmp_path / "old.npz").vector == vector).all()


@pytest.mark.parametrize("mode", ["es", "sac", "esac"])
def test_every_mode_learns_and_counts_its_steps(mode: str) -> None:
    made = learner(mode=mode, store="all").learn(400)
    assert made.steps >= 400 and made.generation > 0
    assert (made.gradients is not None and made.collector.updates > 0) == (mode != "es") and made.episodes > 0
    assert math.isfinite(made.best.reward)


def test_an_injected_policy_without_mutation_scores_as_the_gradient_trained_one() -> None:
    made = learner().learn(300)
    base = np.concatenate([made.sac.actor.vector(), *made.inputs])
    found = Evaluator(made.job)(Task(0, 9, 2, 0, made.population.sigma), base[None])
    reset = int(np.random.SeedSequence((0, 0xE5, 9, 2)).generate_state(1)[0]) >> 1
    policy = made.policy("sac")
    assert rollout.episode(made.env, policy, reset, max_steps=15, observe=True) == found
    with torch.no_grad():
        wanted = made.to_module("sac")(torch.ones(1, 3)).numpy()[0]
    np.testing.assert_allclose(policy(np.ones(3, np.float32)), wanted, rtol=1e-5, atol=1e-6)


def test_a_callback_is_told_and_may_stop() -> None:
    seen = []

    def stop(model: ESAC, generation: Any) -> bool:
        seen.append(generation)
        return len(seen) < 2

    made = learner().learn(10_000, stop)
    assert (
        made.generation == 2
        and seen[1].returns.shape == (4, 2)
        and seen[0].origins == ("crossed", "mean", "mean", "sac")
    )
    assert seen[1].values["es/sigma"] > seen[0].values["es/sigma"]  # tuned, and used by the next generation


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"elite": 0.9, "injected": 2}, "3 crossed and 2 injected members of 4"),
        ({"population": 0}, "population must be a whole number >= 1, got 0"),
        ({"sigma": 0.0}, "sigma must be a number > 0, got 0"),
        ({"most_failed": 2.0}, r"most_failed must be a number in \[0, 1\], got 2"),
        ({"workers": -1}, "workers must be a whole number >= 0, got -1"),
    ],
)
def test_settings_outside_what_is_accepted(words: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPole-v1", "soft actor-critic is for continuous actions"),
        ("NoSuch-v0", "'NoSuch-v0' cannot be made"),
        ("Blackjack-v1", "observations are a Tuple; expected: a flat Box"),
    ],
)
def test_environments_that_cannot_be_learned_here(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ESAC(name)


def test_workers_that_cannot_work_are_given_up_with_their_own_words() -> None:
    job = Job("Pendulum-v1", {"max_episode_steps": 5}, (8, 8))
    with ProcessEngine(job, 1, restarts=1) as pool:
        pool.start(bases(job), [Task(7, 0, 0, 1, 0.1)])  # there is no base 7
        with pytest.raises(WorkerError, match="IndexError"):
            pool.finish()


def test_an_episode_that_takes_too_long_is_ended() -> None:
    job = Job("Pendulum-v1", {"max_episode_steps": 10**8}, (8, 8))
    with ProcessEngine(job, 1, restarts=0, timeout=1.0) as pool:
        pool.start(bases(job), tasks(1))
        with pytest.raises(WorkerError, match="more than 1 s"):
            pool.finish()


def test_the_best_policy_is_not_the_luckiest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ESAC("Pendulum-v1", dataclasses.replace(SMALL, mode="es", eval_episodes=5))
    returns: dict[int, list[float]] = {}

    def episodes(env: Any, policy: Any, count: int, seed: int, most: int, *, skip: int = 0) -> list[rollout.Episode]:
        return [rollout.Episode(total, 1) for total in returns[model.steps][skip : skip + count]]

    monkeypatch.setattr("esac.evaluation.run_episodes", episodes)
    for number, totals in enumerate(
        ([5.0] * 15, [9.0] * 5 + [0.0] * 10, [6.0] * 5 + [5.5] * 10, [4.0] * 5 + [99.0] * 10)
    ):
        model.steps, returns[number] = number, totals
        model.population.optimizer.mean = np.full_like(model.population.mean, number)
        model.evaluation.run((number, 0.0, 0.0))
    assert model.best.reward == pytest.approx((5 * 6.0 + 10 * 5.5) / 15) and (model.best.vector == 2).all()
    assert [row[0] for row in model.evaluations.returns["mean"]] == [5.0, 9.0, 6.0, 4.0]


def endless() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Pendulum-v1").unwrapped


@pytest.mark.parametrize(("env", "workers"), [(endless, 0), ("Pendulum-v1", 2)])
def test_an_environment_without_a_time_limit_gets_the_horizon(env: Any, workers: int, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        SMALL, horizon=7, workers=workers, crossover="none", sac_schedule="annealed", store="all"
    )
    model = ESAC(env, settings).learn(300, out=tmp_path / "run")
    lengths = [int(row.split(",")[1]) for row in (tmp_path / "run" / "monitor.csv").read_text().splitlines()[2:]]
    assert set(lengths) == {7} and [e.length for e in model.evaluate("mean", 2)] == [7, 7]
    assert model.replay.filled > 0 and (model.replay.rows[: model.replay.filled, -1] == 1).all()  # no terminations
    assert ESAC("Pendulum-v1", settings).job.options == {"max_episode_steps": 7}  # a run folder states it
    assert environment.horizon(endless()) == 10_000
