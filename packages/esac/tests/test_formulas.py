"""The formulas of the evolution strategy and of soft actor-critic against independent oracles."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from esac.config import ESACConfig
from esac.es import evolution
from esac.es.ascent import Ascent
from esac.es.population import Population
from esac.generation import gradient_probability
from esac.play.interaction import TransitionWriter
from esac.play.policy import PolicyShape
from esac.play.rollout import Episode
from esac.play.task import Evaluator, Job, noise
from esac.play.vector import Single
from esac.sac.actor import Actor, Explorer
from esac.sac.collect import Collector
from esac.sac.config import SACConfig
from esac.sac.critic import Critics
from esac.sac.replay import Replay
from esac.sac.update import SAC
from sextet_common.errors import InputError

SHAPE = PolicyShape(5, 2, (16, 8))
LOW, HIGH = np.array([-2.0, 0.0]), np.array([2.0, 1.0])


def directions(count: int, size: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32) * np.float32(3)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_adam_is_torchs(l2: float) -> None:
    ours = np.linspace(-1, 1, 6, dtype=np.float32)
    theirs = torch.tensor(ours, requires_grad=True)
    ascent = Ascent(6, 0.01, "adam", l2)
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=l2, maximize=True)
    for direction in directions(300):
        before = ours.copy()
        ratio = ascent.step(ours, direction)
        assert ratio == pytest.approx(np.linalg.norm(ours - before) / np.linalg.norm(before), rel=1e-3)
        theirs.grad = torch.tensor(direction)
        adam.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)  # float32, 300 steps


def test_sgd_is_the_gradient_with_weight_decay() -> None:
    vector = np.array([1.0, -2.0], np.float32)
    Ascent(2, 0.1, "sgd", 0.5).step(vector, np.array([3.0, 4.0], np.float32))
    np.testing.assert_allclose(vector, [1 + 0.1 * (3 - 0.5), -2 + 0.1 * (4 + 1)], rtol=1e-6)
    plain = np.array([1.0, -2.0], np.float32)
    Ascent(2, 0.1, "sgd").step(plain, np.array([3.0, 4.0], np.float32))
    np.testing.assert_allclose(plain, [1.3, -1.6], rtol=1e-6)


def test_clipup_keeps_momentum_up_to_twice_the_step() -> None:
    vector, along = np.zeros(2, np.float32), np.array([30.0, 40.0], np.float32)
    ascent, lengths = Ascent(2, 0.1, "clipup"), []
    for _ in range(5):
        before = vector.copy()
        ascent.step(vector, along)
        lengths.append(float(np.linalg.norm(vector - before)))
    # speeds 1, 0.9 + 1, then min(0.9 * 1.9 + 1, 2) = 2 steps, whatever the length of the gradient
    np.testing.assert_allclose(lengths, [0.1, 0.19, 0.2, 0.2, 0.2], rtol=1e-5)
    np.testing.assert_allclose(vector / np.linalg.norm(vector), [0.6, 0.8], rtol=1e-5)


@pytest.mark.parametrize("returns", [[0.0, 0.4], [0.0, 1.6], [1.0, 2.0, 9.0], [5.0, -3.0, np.nan, np.inf]])
def test_mutation_tuning_is_torchs_smooth_l1(returns: list[float]) -> None:
    finite = torch.tensor([value for value in returns if math.isfinite(value)], dtype=torch.float64)
    gap = float(torch.nn.functional.smooth_l1_loss(finite.max(), finite.mean()))
    tuned = evolution.tuned_sigma(0.02, np.array(returns), lr=0.003, pairs=7, clip=10.0, largest=100.0)
    assert tuned == pytest.approx(0.02 + 0.003 / (7 * 0.02) * gap, rel=1e-12)


def test_ranks_of_one_and_of_two_values() -> None:
    assert evolution.shaped_ranks(np.array([7.0])).tolist() == [0.0]
    assert evolution.shaped_ranks(np.array([7.0, -7.0])).tolist() == [0.5, -0.5]


def test_the_gradient_is_the_sum_over_pairs() -> None:
    random = np.random.default_rng(0)
    ranks, noises = random.normal(size=(4, 2)), random.normal(size=(4, 9)).astype(np.float32)
    expected = sum((plus - minus) * e for (plus, minus), e in zip(ranks, noises, strict=True)) / (4 * 0.3)
    np.testing.assert_allclose(evolution.gradient(ranks, noises, 0.3), expected, rtol=1e-5)


def test_softmax_draws_by_standardised_returns_and_at_a_low_temperature_takes_the_best() -> None:
    def winner(values: np.ndarray, temperature: float, seed: int) -> int:
        random = np.random.default_rng(seed)
        return int(evolution.winners(values, 1, "softmax", temperature=temperature, random=random)[0])

    one_high = np.array([0.0] * 7 + [0.3, np.nan])
    odds = math.exp(0.3 / one_high[:8].std() / 2)
    share = np.mean([winner(one_high, 2.0, k) == 7 for k in range(1000)])
    assert share == pytest.approx(odds / (odds + 7), abs=0.05)  # 1000 draws: three standard deviations are 0.046
    equal = np.bincount([winner(np.full(4, 7.0), 1.0, k) for k in range(400)], minlength=4)
    np.testing.assert_allclose(equal / 400, 0.25, atol=0.08)  # 400 draws: three standard deviations are 0.065
    assert {winner(np.array([1.0, 3.0, 2.0, np.nan]), 0.01, k) for k in range(50)} == {1}
    assert evolution.winners(np.array([1.0, 3.0]), 2).tolist() == [1, 0] and not len(evolution.winners(np.zeros(2), 0))
    for wrong in ({"random": None}, {"random": np.random.default_rng(0), "temperature": 0.0}):
        with pytest.raises(InputError, match="selection 'softmax'"):
            evolution.winners(one_high, 1, "softmax", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3 winners of 2"):
        evolution.winners(np.zeros(2), 3)


def population(**settings: Any) -> tuple[Population, ESACConfig]:
    paper = {"es_method": "openai", "crossover": "row", "es_gradient": "all", "amt_every": 20}
    config = ESACConfig(**{**paper, "population": 4, "elite": 0.5, "injected": 1, "sigma": 0.1, **settings})
    return Population(PolicyShape(3, 1, (4,)), config, seed=5), config


def episodes(totals: list[float], failed: tuple[int, ...] = ()) -> list[Episode]:
    return [Episode.failure("x") if k in failed else Episode(total, 1) for k, total in enumerate(totals)]


def test_winners_are_kept_as_they_were_evaluated() -> None:
    learning, _ = population()
    offspring = learning.offspring(2, np.full(learning.shape.size, 0.3, np.float32))
    outcome = learning.evolve(2, offspring, episodes([0, 1, 2, 9, 3, 4, 8, 5]))
    evaluator = Evaluator(Job("Pendulum-v1", {"max_episode_steps": 1}, (4,), seed=5))
    for kept, number in zip(learning.hindsight, (3, 6), strict=True):  # the second of a pair, the first of another
        evaluator(offspring.tasks[number], offspring.bases)
        np.testing.assert_allclose(kept, evaluator.policy.vector, rtol=1e-6)
    assert outcome.winners == (offspring.origins[1], offspring.origins[3]) == ("crossed", "sac")


@pytest.mark.parametrize(
    ("settings", "failed", "members"),
    [
        ({}, (), [0, 1, 2, 3]),
        ({}, (3,), [0, 2, 3]),  # half a pair says nothing about a direction
        ({"es_gradient": "mean"}, (), [2]),
        ({"elite": 0.0, "injected": 0, "es_gradient": "mean"}, (0, 7), [1, 2]),
    ],
)
def test_the_mean_moves_along_the_pairs_that_count(
    settings: dict[str, Any], failed: tuple[int, ...], members: list[int]
) -> None:
    learning, config = population(es_optimizer="sgd", es_lr=0.25, **settings)
    before, totals = learning.mean.copy(), [0.0, 1.0, 2.0, 9.0, 3.0, 4.0, 8.0, 5.0]
    learning.evolve(0, learning.offspring(0, before), episodes(totals, failed))
    totals = [-math.inf if k in failed else total for k, total in enumerate(totals)]
    ranks = np.array([sum(t < total for t in totals) + 0.5 * (totals.count(total) - 1) for total in totals]) / 7 - 0.5
    move = sum((ranks[2 * m] - ranks[2 * m + 1]) * noise(5, 0, m, len(before)) for m in members)
    np.testing.assert_allclose(
        learning.mean - before, 0.25 * move / (len(members) * config.sigma), rtol=1e-4, atol=1e-6
    )


def test_sigma_is_tuned_in_every_amt_every_th_generation_and_used_where_it_is_applied() -> None:
    for apply in ("both", "gradient"):
        learning, config = population(amt_every=3, amt_clip=0.01, amt_apply=apply)
        sigmas = []
        for number in range(6):
            learning.evolve(number, learning.offspring(number, learning.mean), episodes([*range(8)]))
            sigmas.append(learning.sigma)
        np.testing.assert_allclose(sigmas, [0.1, 0.1, 0.1, 0.1, 0.1, 0.1])  # sigma_max is sigma here
        learning, config = population(amt_every=3, amt_clip=0.01, amt_apply=apply, sigma_max=0.115)
        sigmas = []
        for number in range(9):
            learning.evolve(number, learning.offspring(number, learning.mean), episodes([*range(8)]))
            sigmas.append(learning.sigma)
        np.testing.assert_allclose(sigmas, [0.1, 0.1, 0.11, 0.11, 0.11, 0.115, 0.115, 0.115, 0.115])
        assert learning.optimizer.ask(9)[1][0].sigma == (learning.sigma if apply == "both" else config.sigma)


def test_too_many_failures_stop_and_as_many_as_allowed_do_not() -> None:
    learning, _ = population(most_failed=0.5)
    offspring = learning.offspring(0, learning.mean)
    learning.evolve(0, offspring, episodes([1.0] * 8, failed=(0, 1, 2, 3)))
    with pytest.raises(InputError, match="5 of 8 episodes of generation 0 failed; the first: x"):
        learning.evolve(0, offspring, episodes([1.0] * 8, failed=(0, 1, 2, 3, 4)))


def test_initial_weights_are_xaviers() -> None:
    shape = PolicyShape(40, 30, (50,))
    torch.manual_seed(0)
    actor, critics = Actor(shape, np.full(30, -1.0), np.full(30, 1.0)), Critics(70, (50,))
    layers = [w for w, _ in shape.parts(shape.initial(np.random.default_rng(0)))]
    layers += [w for w, _ in shape.parts(actor.vector())]
    layers += [critics.weights[0][k].detach().numpy().T for k in range(2)]
    for weights in layers:
        bound = math.sqrt(6 / sum(weights.shape))
        assert 0.99 * bound < np.abs(weights).max() <= bound and abs(weights.mean()) < 0.05 * bound
    assert not any(b.any() for _, b in shape.parts(shape.initial(np.random.default_rng(0))))


@pytest.mark.parametrize(("bias", "expected"), [(5.0, 2.0), (-30.0, -20.0), (0.5, 0.5)])
def test_the_log_standard_deviation_is_clamped(bias: float, expected: float) -> None:
    actor = Actor(PolicyShape(2, 1, (4,)), np.array([-2.0]), np.array([2.0]))
    with torch.no_grad():
        for layer in (actor.mean, actor.log_std):
            layer.weight.zero_()
        actor.log_std.bias.fill_(bias)
    _, log_std = actor.distribution(torch.zeros(3, 2))
    np.testing.assert_allclose(log_std.detach(), expected)
    action = Explorer(actor)(np.zeros(2, np.float32), np.array([0.1], np.float32))
    np.testing.assert_allclose(action, np.tanh(0.1 * math.exp(expected)), rtol=1e-5)


def sac(**settings: Any) -> SAC:
    torch.manual_seed(0)
    return SAC(SHAPE, LOW, HIGH, SACConfig(**settings))


@pytest.mark.parametrize("log_prob", [-7.0, 1.5, 9.0])
def test_the_temperature_falls_where_the_entropy_exceeds_its_target(log_prob: float) -> None:
    agent = sac(auto_alpha=True)
    assert agent.target_entropy == -2  # minus the number of actions
    agent.alpha_loss(torch.tensor(log_prob)).backward()
    excess = -log_prob - agent.target_entropy
    assert agent.log_alpha.grad is not None and float(agent.log_alpha.grad) == pytest.approx(excess)


def test_an_update_moves_the_temperature_towards_the_target_entropy() -> None:
    replay = Replay(50, 5, 2)
    replay.add(np.random.default_rng(0).normal(size=(50, 14)).astype(np.float32))
    for target in (-100.0, 100.0):
        agent = sac(auto_alpha=True, alpha=0.5, lr=1e-3)
        agent.target_entropy = target
        values = agent.update(replay.sample(np.random.default_rng(0), 16), torch.randn(2, 16, 2))
        assert -50 < float(values["entropy"]) < 50
        # Adam's first step has the length of the learning rate
        assert float(agent.log_alpha.detach()) == pytest.approx(math.log(0.5) + math.copysign(1e-3, target), abs=1e-6)
        assert float(values["alpha"]) == pytest.approx(math.exp(float(agent.log_alpha.detach())))


def test_the_actor_loss_leaves_the_critics_alone_and_each_loss_has_its_own_noise() -> None:
    agent, replay = sac(lr=1e-3), Replay(50, 5, 2)
    replay.add(np.random.default_rng(0).normal(size=(50, 14)).astype(np.float32))
    batch, drawn = replay.sample(np.random.default_rng(0), 16), torch.randn(2, 16, 2)
    critic_loss = float(agent.critic_loss(batch, drawn[0]).detach())
    gradients = torch.autograd.grad(agent.critic_loss(batch, drawn[0]), list(agent.critics.parameters()))
    before = [p.clone() for p in agent.critics.parameters()]
    actor = {name: tensor.clone() for name, tensor in agent.actor.state_dict().items()}
    values = agent.update(batch, drawn)
    assert float(values["critic_loss"]) == pytest.approx(critic_loss, rel=1e-6)
    for old, new, gradient in zip(before, agent.critics.parameters(), gradients, strict=True):
        moved = gradient.abs() > 1e-5  # Adam's epsilon shortens the steps of smaller gradients
        torch.testing.assert_close((new - old)[moved], -1e-3 * gradient[moved].sign(), atol=2e-6, rtol=2e-3)
    assert all(p.requires_grad for p in agent.critics.parameters())
    assert any(not torch.equal(actor[name], tensor) for name, tensor in agent.actor.state_dict().items())
    agent.actor.load_state_dict(actor)  # the policy's loss is that of the old policy under the new critics
    assert float(values["actor_loss"]) == pytest.approx(float(agent.actor_loss(batch, drawn[1])[0].detach()), rel=1e-5)
    log_prob = agent.actor.sample(batch.observations, drawn[1])[1]
    assert float(values["entropy"]) == pytest.approx(-float(log_prob.detach().mean()), rel=1e-5)


def test_old_names_of_soft_actor_critic_warn() -> None:
    agent = sac()
    with pytest.warns(DeprecationWarning, match=r"SAC\.slow is now SAC\.target_critics"):
        assert agent.slow is agent.target_critics
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = agent.nonsense


@pytest.mark.parametrize("blocks", [[3, 4, 5], [1, 25, 2], [10], [11, 3]])
def test_the_replay_is_a_queue_of_bounded_length(blocks: list[int]) -> None:
    replay, queue = Replay(10, 1, 1), deque[float](maxlen=10)
    values = iter(range(1, 100))
    for count in blocks:
        rows = np.array([[next(values)] * 5 for _ in range(count)], np.float32)
        replay.add(rows)
        queue.extend(rows[:, 0].tolist())
        assert sorted(replay.rows[: len(replay), 0].tolist()) == sorted(queue)
    drawn = replay.sample(np.random.default_rng(0), 500).rewards
    assert set(drawn.tolist()) == set(queue)  # all that are there, and nothing else


def test_a_batch_takes_transitions_apart_as_they_were_packed() -> None:
    replay, rows, writer = Replay(4, 3, 2), [], TransitionWriter(np.array([0.0, 0.0]), np.array([10.0, 10.0]))
    for terminated in (False, True):
        writer.before(np.arange(3.0), np.array([7.0, 8.0]))
        rows.append(writer.after(-1.5, np.arange(3.0) + 10, terminated))
        replay.add(rows[-1][None])
    batch = replay.sample(np.random.default_rng(0), 20)
    assert batch.observations[0].tolist() == [0, 1, 2] and batch.actions[0] == pytest.approx([0.4, 0.6])
    assert batch.next_observations[0].tolist() == [10, 11, 12] and batch.rewards[0] == -1.5
    assert set(batch.mask.tolist()) == {0.0, 1.0} and rows[0][-1] == 1 and rows[1][-1] == 0


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0, 2.5])
def test_updates_keep_to_their_rate_once_there_is_a_batch(rate: float) -> None:
    env = gymnasium.make("Pendulum-v1", max_episode_steps=30)
    shape = PolicyShape(3, 1, (4,))
    agent, replay = SAC(shape, np.array([-2.0]), np.array([2.0]), SACConfig(batch_size=8)), Replay(100, 3, 1)
    collector = Collector(Single(env), agent, replay, 0, updates_per_step=rate, start_steps=10)
    expected, due = 0, 0.0
    for filled in range(1, 31):
        due += rate
        if filled > 8:
            expected, due = expected + int(due), due - int(due)
        due = min(due, 1.0)
    (episode,), losses = collector.episodes(0, 0)
    assert (episode.length, collector.steps, len(replay), collector.updates) == (30, 30, 30, expected)
    assert bool(losses) == (rate > 0) and episode.total == pytest.approx(float(replay.rows[:30, 4].sum()), rel=1e-5)
    assert np.ptp(replay.rows[:10, 3]) > 0.5 and np.abs(replay.rows[:30, 3]).max() <= 1


def test_first_actions_are_uniform_and_later_ones_the_policys() -> None:
    env = gymnasium.make("Pendulum-v1", max_episode_steps=200)
    agent = SAC(PolicyShape(3, 1, (4,)), np.array([-2.0]), np.array([2.0]), SACConfig())
    with torch.no_grad():
        agent.actor.mean.bias.fill_(9.0)  # saturated: the policy always pushes with 2
        agent.actor.log_std.bias.fill_(-9.0)
        for layer in (agent.actor.mean, agent.actor.log_std):
            layer.weight.zero_()
    replay = Replay(300, 3, 1)
    Collector(Single(env), agent, replay, 0, updates_per_step=0.0, start_steps=150).episodes(0, 0)
    first, later = replay.rows[:150, 3], replay.rows[150:200, 3]
    assert first.min() < -0.95 and first.max() > 0.95 and abs(first.mean()) < 0.15  # 0.15: three standard errors
    np.testing.assert_allclose(later, 1, rtol=1e-4)


def test_the_probability_of_gradients_decays_by_a_factor_of_e() -> None:
    config = dataclasses.replace(ESACConfig(), sac_least=0.2, sac_decay=500.0)
    for counted in (0, 500, 1000):
        assert gradient_probability(counted, config) == pytest.approx(0.2 + 0.8 * math.e ** (-counted / 500))
