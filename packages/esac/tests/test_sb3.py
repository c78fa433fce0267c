"""Stable-Baselines3's face: its quickstart, its callbacks and an Optuna loop run after a change of the import."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import optuna
import pytest
from esac import ESAC, ESACConfig, StopOnReward, changed
from gymnasium import spaces
from sextet_common.errors import InputError
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

SMALL = changed({"hidden": (8, 8), "sac_episodes": 1, "start_steps": 40, "eval_every": 400, "eval_episodes": 1,
                 "population": 2, "sac": {"batch_size": 8}})  # fmt: skip


def pendulum() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Pendulum-v1", max_episode_steps=20)


def test_the_quickstart_runs() -> None:
    env = gymnasium.make("Pendulum-v1")
    model = ESAC("MlpPolicy", env, verbose=0, policy_kwargs=dict(net_arch=[16, 16]), learning_starts=100)
    model.learn(total_timesteps=500)
    vec_env = model.get_env()
    obs, _ = vec_env.reset()
    for _ in range(10):
        action, _states = model.predict(obs, deterministic=True)
        obs, _reward, _terminated, _truncated, _info = vec_env.step(action)
    assert obs.shape == (3,) and model.config.hidden == (16, 16)
    assert model.num_timesteps == model.steps >= 500


def test_the_quickstart_runs_with_a_vector_environment() -> None:
    vec_env = make_vec_env("Pendulum-v1", n_envs=3, env_kwargs={"max_episode_steps": 20})
    model = ESAC("MlpPolicy", vec_env, policy_kwargs=dict(net_arch=[16, 16]), learning_starts=100)
    model.learn(total_timesteps=500)
    obs = vec_env.reset()
    for _ in range(10):
        action, _states = model.predict(obs)
        obs, _rewards, _dones, _info = vec_env.step(action)
    assert obs.shape == (3, 3) and model.get_env() is vec_env and model.collector.steps % 60 == 0
    assert np.isfinite(evaluate_policy(model, model.get_env(), n_eval_episodes=3)[0])


def test_an_environment_its_name_and_a_function_learn_the_same() -> None:
    models = [
        ESAC("MlpPolicy", pendulum(), SMALL, seed=3), ESAC(pendulum(), SMALL, seed=3), ESAC(pendulum, SMALL, seed=3),
        ESAC("Pendulum-v1", SMALL, seed=3, options={"max_episode_steps": 20}),
        ESAC(env=pendulum(), config=changed({"workers": 1}, SMALL), seed=3),
    ]  # fmt: skip
    first, *others = [model.learn(300, progress_bar=False) for model in models]
    for other in others:
        np.testing.assert_array_equal(first.population.mean, other.population.mean)
        np.testing.assert_array_equal(first.sac.actor.vector(), other.sac.actor.vector())


def test_steps_count_from_now_on() -> None:
    model = ESAC(pendulum, SMALL, seed=0).learn(total_timesteps=200)
    first = model.num_timesteps
    assert 200 <= first < 400
    model.learn(total_timesteps=200, reset_num_timesteps=False)
    second = model.num_timesteps
    assert second >= first + 200
    model.learn(total_timesteps=200)
    assert 200 <= model.num_timesteps < 400 and model.steps == second + model.num_timesteps
    assert model.learn(total_steps=0).steps == second + model.num_timesteps
    for words in ({}, {"total_steps": 5, "total_timesteps": 5}):
        with pytest.raises(InputError, match=r"total_steps .* and total_timesteps .*; expected: one of them"):
            model.learn(**words)


class Count(BaseCallback):
    def _on_training_start(self) -> None:
        self.seen: list[int] = []

    def _on_step(self) -> bool:
        self.seen.append(self.num_timesteps)
        return len(self.seen) < 500


def test_its_callbacks_are_called_for_every_step_and_may_stop() -> None:
    count, generations = Count(), []
    model = ESAC(pendulum, SMALL, seed=0)
    model.learn(10**6, [count, lambda _, done: generations.append(done.number), StopOnReward(1e9)])
    assert len(count.seen) == 500 and count.n_calls == 500 and 500 <= model.steps < 700
    assert len(generations) == model.generation > 1 and count.seen[-1] == model.steps


def test_eval_callback_evaluates_and_stops(tmp_path: Any) -> None:
    stop = StopTrainingOnRewardThreshold(-1e9)
    watch = EvalCallback(Monitor(pendulum()), callback_on_new_best=stop, eval_freq=150, n_eval_episodes=1,
                         log_path=str(tmp_path), verbose=0, warn=False)  # fmt: skip
    with pytest.warns(UserWarning, match="Training and eval env are not of the same type"):
        model = ESAC("MlpPolicy", pendulum(), SMALL).learn(10**6, watch)
    assert model.steps < 400 and np.load(tmp_path / "evaluations.npz")["timesteps"][0] == model.steps
    assert model.logger.name_to_value["eval/mean_reward"] == watch.best_mean_reward


class TrialEvalCallback(EvalCallback):
    """As in Optuna's example for Stable-Baselines3."""

    def __init__(self, eval_env: Any, trial: optuna.Trial, eval_freq: int) -> None:
        super().__init__(eval_env, n_eval_episodes=1, eval_freq=eval_freq, deterministic=True, verbose=0, warn=False)
        self.trial, self.eval_idx, self.is_pruned = trial, 0, False

    def _on_step(self) -> bool:
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0:
            super()._on_step()
            self.eval_idx += 1
            self.trial.report(self.last_mean_reward, self.eval_idx)
            if self.trial.should_prune():
                self.is_pruned = True
                return False
        return True


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type:UserWarning")
def test_an_optuna_loop_with_pruning_runs() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        kwargs = {
            "policy": "MlpPolicy", "env": make_vec_env(pendulum, 2) if trial.number % 2 else pendulum(),
            "learning_starts": 40, "batch_size": 8,
            "gamma": 1.0 - trial.suggest_float("gamma", 0.0001, 0.1, log=True), "ent_coef": "auto",
            "learning_rate": trial.suggest_float("lr", 1e-5, 1, log=True), "policy_kwargs": {"net_arch": [8]},
        }  # fmt: skip
        model = ESAC(**kwargs)
        watch = TrialEvalCallback(Monitor(pendulum()), trial, eval_freq=100)
        model.learn(300, callback=watch)
        if watch.is_pruned:
            raise optuna.TrialPruned
        return float(watch.last_mean_reward)

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(n_startup_trials=2, seed=0), direction="maximize",
        pruner=optuna.pruners.PercentilePruner(1.0, n_startup_trials=1, n_warmup_steps=0),
    )  # fmt: skip
    study.optimize(objective, n_trials=5)
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 5 and "COMPLETE" in states and set(states) <= {"COMPLETE", "PRUNED"}


def test_verbose_prints_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    model = ESAC(pendulum, SMALL, verbose=1).learn(total_timesteps=900)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(model.evaluations.when) and lines[0].split(" steps: ")[1].startswith("mean_mean_reward -")


def test_set_env_goes_on_elsewhere() -> None:
    model = ESAC(pendulum, SMALL).learn(200)
    longer = gymnasium.make("Pendulum-v1", max_episode_steps=30)
    model.set_env(longer)
    assert model.get_env() is longer and model.learn(600).steps >= 600
    assert model.evaluate("mean", 1)[0].length == 30 and len(evaluate_policy(model, Monitor(longer), 1)) == 2
    with pytest.raises(InputError, match="an environment with the observation_space"):
        model.set_env("MountainCarContinuous-v0")


class Parts(gymnasium.Env[Any, Any]):
    """Observes a dictionary."""

    observation_space = spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "speed": spaces.Box(-1, 1, (1,))})
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        return {"place": np.zeros(2, np.float32), "speed": np.ones(1, np.float32)}, {}

    def step(self, action: np.ndarray) -> Any:
        self.time += 1
        return {"place": np.ones(2, np.float32), "speed": np.zeros(1, np.float32)}, 0.0, False, self.time > 4, {}


def test_dictionaries_are_flattened() -> None:
    model = ESAC("MultiInputPolicy", Parts(), SMALL).learn(40)
    assert model.shape.observations == 3 and model.env.reset(seed=0)[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "words", "message"),
    [
        (("CnnPolicy", "Pendulum-v1"), {}, "the policy 'CnnPolicy'; expected: MlpPolicy or MultiInputPolicy"),
        (("MlpPolicy", 5), {}, "the environment 5; expected: a name, an environment, or a function"),
        (("MlpPolicy",), {}, "the environment None; expected: a name"),
        (("Pendulum-v1",), {"ent_coef": "some"}, "ent_coef is 'some'; expected: a number, auto or auto_0.1"),
        (("Pendulum-v1",), {"train_freq": 1}, "unknown argument 'train_freq'"),
        (("Pendulum-v1",), {"policy_kwargs": {"activation_fn": 1}}, "unknown argument 'activation_fn'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_accepted(arguments: tuple[Any, ...], words: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ESAC(*arguments, **words)


def test_an_object_that_workers_cannot_make_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot be sent to workers: it was not made by gymnasium.make"):
        ESAC(Parts(), changed({"workers": 1}, SMALL)).learn(10)
    assert ESAC(Parts(), ESACConfig(mode="es")).record()["env"] == "Parts (an object)"
