"""Linear policies without biases, as in augmented random search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from esac import ESAC, NumpyPolicy, PolicyShape, changed
from esac.cloning import cloned
from sextet_common.errors import InputError

WORDS: dict[str, Any] = {
    "mode": "es", "es_bias": False, "es_action": "linear", "population": 2, "sigma": 0.3, "es_lr": 0.1,
    "eval_every": 100, "eval_episodes": 1,
}  # fmt: skip
SHORT = {"max_episode_steps": 25}


def test_it_acts_by_a_matrix_alone_and_a_file_keeps_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shape = PolicyShape(4, 2, (), bias=False)
    matrix = random.normal(size=(2, 4)).astype(np.float32)
    inputs = np.stack([random.normal(size=4), random.uniform(0.5, 2, 4)])
    policy = NumpyPolicy(shape, np.full(2, -3.0), np.full(2, 3.0), matrix.ravel(), "linear", inputs)
    seen = random.normal(size=(9, 4)).astype(np.float32)
    wanted = 3 * np.clip((seen - inputs[0]) * inputs[1] @ matrix.T, -1, 1)
    np.testing.assert_allclose(policy.batch(seen), wanted, rtol=1e-4, atol=1e-5)
    for name in ("policy.npz", "policy.safetensors"):
        policy.save(tmp_path / name)
        again = NumpyPolicy.load(tmp_path / name)
        assert again.shape == shape
        np.testing.assert_array_equal([again(row) for row in seen], [policy(row) for row in seen])


def test_a_clone_is_the_least_squares_fit_through_the_origin() -> None:
    random = np.random.default_rng(1)
    seen, actions = random.normal(size=(500, 3)).astype(np.float32), random.uniform(-0.9, 0.9, (500, 2))
    vector = cloned(PolicyShape(3, 2, (), bias=False), np.zeros(6, np.float32), seen, actions, "linear")
    fitted, *_ = np.linalg.lstsq(seen, actions, rcond=None)
    np.testing.assert_allclose(vector.reshape(2, 3), fitted.T, atol=1e-3)


@pytest.mark.parametrize("method", ["ars", "openai", "pgpe", "cma"])
def test_every_optimizer_moves_the_same_for_any_engine_and_after_a_file(method: str, tmp_path: Path) -> None:
    config = changed({**WORDS, "es_method": method})
    learned = [
        ESAC("InvertedPendulum-v5", changed(more, config), seed=3, options=SHORT).learn(600, progress_bar=False)
        for more in ({}, {"workers": 2}, {"engine": "batch"})
    ]
    serial, processes, batch = learned
    assert serial.population.mean.shape == (4,) and np.abs(serial.population.mean).max() > 0
    np.testing.assert_array_equal(serial.population.mean, processes.population.mean)
    np.testing.assert_allclose(serial.population.mean, batch.population.mean, rtol=1e-6)
    serial.save(tmp_path / "esac.safetensors")
    again = ESAC.load(tmp_path / "esac.safetensors")
    assert again.policy("best").shape.bias is False
    np.testing.assert_array_equal(again.learn(900).population.mean, serial.learn(900).population.mean)


def test_both_halves_pass_their_policies_on() -> None:
    words = {
        "mode": "esac", "injected": 1, "transfer": "both", "hidden": (8,), "start_steps": 20, "store": "all",
        "sac_schedule": "annealed", "sac_every": 1, "sac": {"batch_size": 16},
    }  # fmt: skip
    model = ESAC("Pendulum-v1", changed({**WORDS, **words}), seed=0, options=SHORT).learn(2500)
    assert model.collector.updates > 0 and np.isfinite(model.population.mean).all()
    injected = model.injected_vector(0)
    assert injected is not None and injected.shape == (3,)


def test_layers_need_biases() -> None:
    with pytest.raises(InputError, match=r"es_bias off with es_hidden \(8,\)"):
        changed({"es_bias": False, "es_hidden": (8,)})
    with pytest.raises(InputError, match="no biases in a policy with hidden layers"):
        PolicyShape(3, 1, (8,), bias=False)
