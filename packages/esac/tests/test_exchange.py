"""What passes between the population and the gradient-trained policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esac import ESAC, ESACConfig, NumpyPolicy, PolicyShape, changed
from esac.cloning import cloned
from esac.exchange import Exchange
from esac.play.rollout import Episode

SMALL: dict[str, Any] = {
    "population": 3, "sac_every": 1, "sac_least": 1.0, "sac_episodes": 1, "start_steps": 20, "hidden": (8, 8),
    "eval_every": 400, "eval_episodes": 1, "checkpoint_every": 100, "sac": {"batch_size": 8, "lr": 3e-3},
}  # fmt: skip


def learner(**words: Any) -> ESAC:
    return ESAC("Pendulum-v1", changed({**SMALL, **words}), seed=1, options={"max_episode_steps": 30})


@pytest.mark.parametrize("action", ["tanh", "linear"])
def test_a_linear_clone_of_a_linear_policy_is_the_policy(action: Any) -> None:
    random = np.random.default_rng(0)
    shape, seen = PolicyShape(4, 2, ()), random.normal(size=(500, 4)).astype(np.float32)
    teacher = NumpyPolicy(shape, -np.ones(2), np.ones(2), (0.1 * random.normal(size=10)).astype(np.float32), action)
    vector = cloned(shape, np.zeros(10, np.float32), seen, teacher.batch(seen), action)
    np.testing.assert_allclose(vector, teacher.vector, atol=2e-3)  # the ridge


def test_a_clone_with_hidden_layers_comes_near_its_teacher() -> None:
    random = np.random.default_rng(0)
    shape, seen = PolicyShape(3, 1, (32, 32)), random.normal(size=(1000, 3)).astype(np.float32)
    teacher = NumpyPolicy(PolicyShape(3, 1, ()), -np.ones(1), np.ones(1), np.float32([0.5, -1.0, 0.3, 0.2]))
    start = shape.initial(random)
    student = NumpyPolicy(shape, -np.ones(1), np.ones(1), cloned(shape, start, seen, teacher.batch(seen)))
    fresh = random.normal(size=(200, 3)).astype(np.float32)
    error = np.abs(student.batch(fresh) - teacher.batch(fresh)).mean()
    assert (
        error
        < 0.1
        < np.abs(NumpyPolicy(shape, -np.ones(1), np.ones(1), start).batch(fresh) - teacher.batch(fresh)).mean()
    )
    again = cloned(shape, start, seen, teacher.batch(seen))
    assert (again == student.vector).all()


@pytest.mark.parametrize("es_hidden", [(), (8, 8)])
def test_the_injected_member_acts_like_the_gradient_trained_policy(es_hidden: tuple[int, ...]) -> None:
    model = learner(es_hidden=es_hidden).learn(1500)
    vector = model.injected_vector(model.generation)
    assert vector is not None and vector.shape == (model.population.shape.size,)
    if es_hidden:
        np.testing.assert_array_equal(vector, model.sac.actor.vector())
    seen = model.replay.rows[: len(model.replay), :3]
    low, high = model.env.action_space.low, model.env.action_space.high  # type: ignore[attr-defined]
    member = NumpyPolicy(model.population.shape, low, high, vector, "tanh", model.inputs)
    target = model.policy("sac").batch(seen)
    error = np.abs(member.batch(seen) - target).mean()
    assert error < 0.5 * np.abs(model.policy("mean").batch(seen) - target).mean() + 1e-6
    offspring = model.population.offspring(9, vector, model.inputs)
    assert offspring.origins == ("mean", "mean", "sac")
    np.testing.assert_array_equal(offspring.bases[2, : len(vector)], vector)


@pytest.mark.parametrize("es_hidden", [(), (8, 8)])
@pytest.mark.parametrize("better", ["mean", "sac"])
def test_the_better_side_is_copied_over_the_other(better: Any, es_hidden: tuple[int, ...]) -> None:
    model = learner(es_hidden=es_hidden).learn(1000)
    worse = "sac" if better == "mean" else "mean"
    seen = model.replay.rows[: len(model.replay), :3]
    target, before = model.policy(better).batch(seen), model.policy(worse).batch(seen)
    model.transfer(7, better)
    after = np.abs(model.policy(worse).batch(seen) - target).mean()
    assert after < 0.6 * np.abs(before - target).mean() and (not es_hidden or after == 0)
    np.testing.assert_array_equal(model.policy(better).batch(seen), target)
    assert not model.population.optimizer.state()["ascent.m"].any() or better == "mean"


def played(returns: dict[str, float]) -> list[tuple[str, Episode]]:
    return [(origin, Episode(total + shift, 5)) for origin, total in returns.items() for shift in (-1, 1)]


def test_the_share_follows_who_improves_within_its_limits() -> None:
    exchange = Exchange(ESACConfig())
    shares = []
    for number in range(30):
        assert exchange.update(number, played({"mean": 10.0, "sac": 10.0 + number})) is None
        shares.append(exchange.share)
    assert shares[0] == 0.5 and shares[5] > 0.6 and shares[-1] == pytest.approx(0.9)
    for number in range(30, 90):
        exchange.update(number, played({"mean": 10.0 + 3 * number, "sac": 40.0, "crossed": 1e9}))
    assert exchange.share == pytest.approx(0.1)
    exchange.update(90, [("mean", Episode.failure("x"))])  # failed episodes say nothing
    assert np.isfinite(exchange.state()["averages"]).all()


def test_a_transfer_needs_a_margin_and_a_pause() -> None:
    exchange = Exchange(ESACConfig(transfer="both"))
    assert exchange.update(0, played({"mean": 100.0})) is None  # nothing is known of the other side
    assert exchange.update(1, played({"mean": 100.0, "sac": 104.0})) is None
    assert exchange.update(2, played({"mean": 100.0, "sac": 900.0})) == "sac"
    assert exchange.update(3, played({"mean": 5000.0, "sac": 100.0})) is None
    assert [exchange.update(k, played({"mean": 5000.0, "sac": 100.0})) for k in range(4, 14)] == [None] * 8 + [
        "mean",
        None,
    ]
    never = Exchange(ESACConfig())
    assert {never.update(k, played({"mean": 0.0, "sac": 100.0})) for k in range(20)} == {None}


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_with_the_adaptive_schedule_the_gradients_get_their_share(share: float) -> None:
    model = learner(sac_schedule="adaptive")
    model.exchange.share = share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.exchange, "update", lambda number, episodes: None)
        model.learn(4000)
    assert model.collector.steps / model.steps == pytest.approx(share, abs=0.03)


def same(a: ESAC, b: ESAC) -> bool:
    x, y = a.state(), b.state()
    for each in (x, y):
        each.pop("seconds"), each.pop("cpu_seconds")
        each["evaluations.when"] = each["evaluations.when"][:, 0]
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("es_hidden", [(), (8,)])
def test_exchange_and_cloning_resume_to_the_same_numbers_with_any_workers(
    es_hidden: tuple[int, ...], tmp_path: Path
) -> None:
    words: dict[str, Any] = {"es_hidden": es_hidden, "transfer": "both", "sac_schedule": "adaptive", "store": "all"}
    whole = learner(**words).learn(2000)
    learner(**words).learn(800, out=tmp_path / "run")
    torch.manual_seed(99)  # of no consequence
    assert same(whole, learner(**words, workers=2).learn(2000, out=tmp_path / "run"))
    first = learner(**words).learn(1000)
    assert same(whole, ESAC.load(first.save(tmp_path / "e.safetensors")).learn(2000))
