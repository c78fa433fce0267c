"""What passes between the population and the gradient-trained policy."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esac import ESAC, ESACConfig, NumpyPolicy, PolicyShape, changed
from esac.cloning import cloned
from esac.exchange import Curve, Exchange
from esac.play.rollout import Episode
from sextet_common.errors import InputError

SMALL: dict[str, Any] = {
    "population": 3, "sac_schedule": "annealed", "sac_every": 1, "sac_least": 1.0, "sac_episodes": 1, "start_steps": 20,
    "sac_cost": 2.0, "hidden": (8, 8), "injected": 1,
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


def played(total: float) -> list[Episode]:
    return [Episode(total + shift, 5) for shift in (-1, 1)]


def shares(exchange: Exchange, returns: Iterable[tuple[float, float]]) -> list[float]:
    result: list[float] = []
    for mean, sac in returns:
        exchange.account(100, 1)
        exchange.update(len(result), played(mean), played(sac))
        result.append(exchange.share)
    return result


@pytest.mark.parametrize("side", [0, 1])
def test_the_better_side_gets_the_time_while_it_improves(side: int) -> None:
    rows = [(10.0 * k, 5.0) for k in range(1, 30)]
    result = shares(Exchange(ESACConfig()), [row if side == 0 else row[::-1] for row in rows])
    assert result[-1] == pytest.approx(0.9 if side else 0.1, abs=0.02)
    assert result[:3] == [0.3] * 3 and min(result) >= 0.1 and max(result) <= 0.9


@pytest.mark.parametrize("side", [0, 1])
def test_the_other_side_gets_the_time_once_the_better_one_stands_still(side: int) -> None:
    rows = [(min(100.0, 10.0 * k), -50.0) for k in range(1, 80)]
    result = shares(Exchange(ESACConfig()), [row if side == 0 else row[::-1] for row in rows])
    assert result[12] == pytest.approx(0.9 if side else 0.1, abs=0.03)
    assert result[-1] == pytest.approx(0.1 if side else 0.9, abs=0.03)


def test_the_side_that_is_about_to_overtake_gets_the_time() -> None:
    rows = [(100.0 + k, -200.0 + 8 * k) for k in range(40)]  # 139 and 112 at last: the first one is still ahead
    assert shares(Exchange(ESACConfig()), rows)[-1] == pytest.approx(0.9, abs=0.03)


def test_rewards_of_another_unit_and_origin_give_the_same_shares() -> None:
    random = np.random.default_rng(0)
    rows = np.cumsum(random.normal(0.5, 1.0, (60, 2)), axis=0)
    plain = shares(Exchange(ESACConfig()), rows.tolist())
    exchange = Exchange(ESACConfig())
    moved = []
    for number, row in enumerate(rows):
        sides = [[Episode(1000 * (e.total - 3), 5) for e in played(total)] for total in row]
        exchange.account(100, 1)
        exchange.update(number, *sides)
        moved.append(exchange.share)
    assert plain == moved and len(set(plain)) > 3


def test_failed_episodes_and_a_missing_side_say_nothing() -> None:
    exchange = Exchange(ESACConfig())
    exchange.update(0, played(3.0), [])
    exchange.update(1, [Episode.failure("x")], [Episode.failure("x")])
    assert exchange.share == 0.3 and exchange.mean.level == 3.0 and not exchange.owes([], 100)
    exchange.account(int(200 * exchange.config.sac_cost), 0)
    assert exchange.owes([], 100) and not exchange.owes([], 1000)  # 85 steps
    assert exchange.owes([Episode(1.0, 40)], 100) and not exchange.owes([Episode(1.0, 80)], 100)
    assert not exchange.owes([Episode.failure("x", 1)], 100)  # it might fail for ever


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    curve = Curve()
    for k in range(2000):
        curve.add([Episode(float(k), 1)])
    assert len(curve.points) <= 256 and curve.steps == curve.episodes == 2000
    assert curve.gain == pytest.approx(940, rel=0.1)  # a line


def test_a_transfer_needs_a_margin_and_a_pause() -> None:
    exchange = Exchange(ESACConfig(transfer="both"))
    assert exchange.update(0, played(100.0), []) is None  # nothing is known of the other side
    assert exchange.update(1, played(100.0), played(104.0)) is None
    assert exchange.update(2, played(100.0), played(900.0)) == "sac"
    assert exchange.update(3, played(5000.0), played(100.0)) is None
    later = [exchange.update(k, played(5000.0), played(100.0)) for k in range(4, 14)]
    assert later == [None] * 8 + ["mean", None]
    never = Exchange(ESACConfig(transfer="none"))
    assert [never.update(k, played(0.0), played(100.0)) for k in range(20)] == [None] * 20


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_with_the_adaptive_schedule_the_gradients_get_their_share_of_the_time(share: float) -> None:
    model = learner(sac_schedule="adaptive", sac_cost=5.0)
    model.exchange.share = share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.exchange, "_deserves_time", lambda: "sac")
        patch.setattr("esac.exchange._PACE", 0.0)
        model.learn(8000)
    time = 5.0 * model.collector.steps
    assert time / (time + model.steps - model.collector.steps) == pytest.approx(share, abs=0.03)


def test_a_damaged_curve_is_refused() -> None:
    exchange = Exchange(ESACConfig())
    for points in (np.zeros((3, 2)), np.full((3, 3), np.nan), np.zeros((3, 3)), np.float64([[2, 0, 1], [1, 0, 2]])):
        with pytest.raises(InputError, match="learning curve"):
            exchange.load_state({**exchange.state(), "sac": points})
    for name, value in (("share", 1.0), ("share", np.nan), ("owed", np.inf), ("time", -1.0)):
        with pytest.raises(InputError, match="share"):
            exchange.load_state({**exchange.state(), name: np.array(value)})


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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "batch"])
def test_a_killed_run_with_cloning_resumes_with_other_workers_to_the_same_numbers(engine: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {**SMALL, "transfer": "both", "sac_schedule": "adaptive", "store": "all"}
    script = f"""
import os, signal, esac
def kill(model, generation):
    if generation.number == 14:
        os.kill(os.getpid(), signal.SIGKILL)
config = esac.changed({ {**words, "engine": engine}!r})
esac.ESAC("Swimmer-v5", config, seed=2, options={{"max_episode_steps": 20}}).learn(10**6, kill, out="run")
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole, resumed = (
        ESAC("Swimmer-v5", changed({**words, **more}), seed=2, options={"max_episode_steps": 20})
        for more in ({}, {"workers": 2})
    )
    resumed.learn(3200, out=tmp_path / "run")
    assert same(whole.learn(3200), resumed) and resumed.generation > 14 and resumed.exchange.state()["last"] > 0


def test_without_exchange_the_population_moves_as_by_evolution_alone() -> None:
    words = {"start_steps": 20, "sac_schedule": "annealed", "sac_every": 1, "sac": {"batch_size": 16}}
    both, alone = (
        ESAC("Pendulum-v1", changed({**words, "mode": mode}), seed=1, options={"max_episode_steps": 20})
        for mode in ("esac", "es")
    )
    means: dict[str, list[np.ndarray]] = {"esac": [], "es": []}
    for model in (both, alone):
        model.learn(10**6, lambda m, g: means[m.config.mode].append(m.population.mean.copy()) or g.number < 9)
    assert both.collector.updates > 0 and len(means["es"]) == 10
    np.testing.assert_array_equal(means["esac"], means["es"])  # though soft actor-critic has seen other observations
    np.testing.assert_array_equal(both.inputs, alone.inputs)
