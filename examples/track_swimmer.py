"""Track a swimming robot from camera measurements with outliers: esac's policy swims, gmr-metric's filter tracks it.

An evolution strategy trains MuJoCo's Swimmer-v5. The camera's error for the head's position has a standard deviation of
2 cm or, in one measurement of seven, of 40 cm. A Kalman filter can model only the narrow noise or the total variance; a
Gaussian-sum filter models both kinds of measurement by a mixture, reduced after every step. MuJoCo provides the true
position.

Run it: ``python examples/track_swimmer.py --out track-swimmer``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from esac import ESAC, ESACConfig, changed
from gmr_metric import GaussianMixture, GaussianSumFilter
from gmr_metric.filtering import Model
from gmr_metric.plotting import ellipses
from sextet_common import figures, files

ENV, HEAD = "Swimmer-v5", "torso"
NARROW, WIDE, OUTLIERS = 0.02, 0.4, 1 / 7  # metres, metres, share of the measurements
LEARNER = {
    "mode": "es", "es_method": "openai", "es_hidden": (32,), "normalize": False, "population": 4, "sigma": 0.05,
    "es_lr": 0.05, "amt_every": 20,
}  # fmt: skip
ELLIPSES = 0.02  # components of smaller weight are not drawn


def swim(policy: ESAC, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the actions of an episode, the head's positions in metres, and the time step in seconds."""
    env = gymnasium.make(ENV, max_episode_steps=steps)
    observation, _ = env.reset(seed=seed)
    actions, places = [], []
    for _ in range(steps):
        action, _ = policy.predict(observation, deterministic=True)
        observation, *_ = env.step(action)
        actions.append(action)
        places.append(env.unwrapped.data.body(HEAD).xpos[:2].copy())
    return np.array(actions), np.array(places), float(env.unwrapped.dt)


def motion(places: np.ndarray, dt: float) -> Model:
    """Return a nearly-constant-velocity model whose noise is estimated from a separate episode."""
    accelerations = np.diff(places, 2, axis=0) / dt**2
    density = float(accelerations.var()) * dt
    step = np.kron([[1.0, dt], [0.0, 1.0]], np.eye(2))
    return Model(step, density * np.kron([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]], np.eye(2)))


def sensors() -> dict[str, tuple[GaussianSumFilter, Model]]:
    """Return every filter with its model of the camera."""
    camera = np.eye(2, 4)
    noise = GaussianMixture([1 - OUTLIERS, OUTLIERS], np.zeros((2, 2)), [NARROW**2 * np.eye(2), WIDE**2 * np.eye(2)])
    one = GaussianSumFilter(n_components=1)
    return {
        "Kalman filter, narrow noise": (one, Model(camera, NARROW**2 * np.eye(2))),
        "Kalman filter, all the variance": (one, Model(camera, noise.covariance())),
        "Gaussian sum, 2 components, Runnalls": (GaussianSumFilter(2, "runnalls"), Model(camera, noise)),
        "Gaussian sum, 8 components, Runnalls": (GaussianSumFilter(8, "runnalls"), Model(camera, noise)),
        "Gaussian sum, 8 components, West": (GaussianSumFilter(8, "west"), Model(camera, noise)),
    }


def draw(
    path: Path, places: np.ndarray, pictures: np.ndarray, means: dict[str, np.ndarray], states: list[GaussianMixture]
) -> None:
    """Draw the whole track, and the two seconds in which the head moves most."""
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
    start = int(np.argmax(np.convolve(moved, np.ones(50), "valid")))
    names = ("Kalman filter, all the variance", "Gaussian sum, 8 components, Runnalls")
    around = np.linspace(0, 2 * np.pi, 60)
    with figures.figure_file(path, (8.0, 4.2)) as figure:
        for axis, rows, title in zip(
            figure.subplots(1, 2), (slice(None), slice(start, start + 50)), ("the whole track", "two seconds of it"),
            strict=True,
        ):  # fmt: skip
            axis.plot(*pictures[rows].T, ".", color=figures.COLOURS[5], markersize=3, label="seen by the camera")
            axis.plot(*places[rows].T, color="black", linewidth=2, label="the head")
            for name, colour in zip(names, (figures.COLOURS[1], figures.COLOURS[0]), strict=True):
                axis.plot(*means[name][rows].T, color=colour, linewidth=1.2, label=name)
            low, high = places[rows].min(axis=0), places[rows].max(axis=0)
            room = 0.35 * float((high - low).max())
            axis.set_xlim(low[0] - room, high[0] + room)
            axis.set_ylim(low[1] - room, high[1] + room)
            axis.set_aspect("equal")
            axis.set_title(title)
            axis.set_xlabel("x, metres")
            axis.set_ylabel("y, metres")
        for state in states[start : start + 50 : 4]:
            flat = state.marginal([0, 1])
            for part, weight in zip(ellipses(flat), flat.weights, strict=True):
                if weight >= ELLIPSES:
                    tilt = np.deg2rad(part.angle)
                    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
                    x, y = turn @ (2 * np.array(part.axes)[:, None] * np.stack([np.cos(around), np.sin(around)]))
                    axis.fill(part.centre[0] + x, part.centre[1] + y, color=figures.COLOURS[0], alpha=0.3 * weight)
                    axis.plot(part.centre[0] + x, part.centre[1] + y, color=figures.COLOURS[0], linewidth=0.6)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)


def main(out: Path, learning: int = 60_000, steps: int = 400, episodes: int = 5, seed: int = 0) -> None:
    """Run the composition.

    Parameters
    ----------
    out
        Output folder: result.json, picture.png, track.npz and the policy's run folder.
    learning
        Training steps of the policy.
    steps
        Steps of every tracked episode.
    episodes
        Tracked episodes, with different initial states and noise; one more is used to estimate the motion model.
    seed
        Seed of all random draws.
    """
    config = changed({**LEARNER, "eval_every": learning}, ESACConfig())
    policy = ESAC(ENV, config, seed=seed).learn(learning, out=out / "policy", progress_bar=False)
    calibration, *tracked = [swim(policy, seed + number, steps) for number in range(episodes + 1)]
    dt = calibration[2]
    moves = motion(calibration[1], dt)
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in sensors()}
    saved: dict[str, Any] = {"dt": dt, "transition": moves.function, "disturbance": moves.noise}
    for number, (actions, places, _) in enumerate(tracked):
        random = np.random.default_rng((seed, number))
        wide = random.random(steps) < OUTLIERS
        pictures = places + np.where(wide, WIDE, NARROW)[:, None] * random.normal(size=(steps, 2))
        prior = GaussianMixture([1.0], [[*pictures[0], 0.0, 0.0]], [np.diag([WIDE**2, WIDE**2, 1.0, 1.0])])
        means, states = {}, {}
        for name, (tracker, sensor) in sensors().items():
            estimates = list(tracker.run(prior, pictures[1:], moves, sensor))  # the first measurement is in the prior
            states[name] = [estimate.posterior for estimate in estimates]
            means[name] = np.array([state.mean()[:2] for state in states[name]])
            rmse = float(np.sqrt(((means[name] - places[1:]) ** 2).sum(axis=1).mean()))
            scores[name].append((rmse, sum(estimate.log_likelihood for estimate in estimates)))
        saved |= {f"actions{number}": actions, f"places{number}": places, f"pictures{number}": pictures}
        saved |= {f"{name}, {number}": mean for name, mean in means.items()}
        if not number:
            draw(out / "picture.png", places[1:], pictures[1:], means, states["Gaussian sum, 8 components, Runnalls"])
    with files.replacing(out / "track.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **saved)
    result = {
        "swum": [float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum()) for _, places, _ in tracked],
        "rmse": {name: [rmse for rmse, _ in each] for name, each in scores.items()},
        "log_likelihood": {name: [value for _, value in each] for name, each in scores.items()},
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")
    print(f"{episodes} episodes of {steps * dt:.0f} s; the head swims {np.mean(result['swum']):.1f} m in each")
    for name, each in scores.items():
        rmse, likelihood = np.mean(each, axis=0)
        spread = np.std([value for value, _ in each], ddof=1) if episodes > 1 else 0.0
        print(f"{name}: {100 * rmse:.1f} ± {100 * spread:.1f} cm error, log likelihood {likelihood:.0f}")


if __name__ == "__main__":
    tyro.cli(main)
