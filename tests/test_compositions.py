"""Compositions: each script in examples/ does its job; results are compared with independent computations."""

from __future__ import annotations

import ast
import importlib
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from scipy.stats import gaussian_kde
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
PACKAGES = ("attention_matching", "d2m_generator", "esac", "gmr_metric", "probmcl", "sextet_common", "subclass_kd")


def main_of(name: str) -> Callable[..., None]:
    main: Callable[..., None] = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]
    return main


def result_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def assert_is_a_picture(path: Path, least: int) -> None:
    """A PNG of some size in which there is something to see."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= least
        assert np.asarray(picture.convert("L")).std() > 5


@each_script
def test_a_composition_uses_public_names_of_at_least_two_packages(script: Path) -> None:
    used = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            used.add(node.module.split(".")[0])
            assert not any(part.startswith("_") for part in node.module.split("."))
            package = importlib.import_module(node.module)
            for alias in node.names:
                assert not alias.name.startswith("_")
                # sextet_common's modules are imported by name.
                if node.module != "sextet_common" and "." not in node.module:
                    assert alias.name in package.__all__
    assert len(used - {"sextet_common"}) >= 2


@each_script
def test_a_composition_has_a_command_line(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        tyro.cli(main_of(script.stem), args=["--help"])
    assert stop.value.code == 0
    assert {"--out", "--seed"} <= set(capsys.readouterr().out.split())


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="this copy of the tests has no documentation beside it")
@each_script
def test_a_composition_has_a_page_with_its_command_and_its_picture(script: Path) -> None:
    page = ROOT / "docs" / "compositions" / f"{script.stem}.md"
    text = page.read_text(encoding="utf-8")
    assert f"python examples/{script.name} --out" in text
    assert "```python" in text
    assert f"compositions/{script.stem}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "](../images/" in text


def read_parity(weights: Path, width: int) -> np.ndarray:
    """Classify scikit-learn's last test digits by a saved student, with nothing of subclass-kd: 0 even, 1 odd."""
    from attention_matching import ConvNet
    from safetensors.torch import load_file
    from sextet_common.data import load

    network = ConvNet((1, 8, 8), 10, width=width, depth=2)
    network.load_state_dict(load_file(weights))
    with torch.inference_mode():
        shares = network.eval()(torch.tensor(load("digits").test_images)).softmax(dim=1).numpy()
    return shares[:, 1::2].sum(axis=1) > shares[:, 0::2].sum(axis=1)


@pytest.mark.slow
def test_a_student_learns_even_and_odd_from_ten_distilled_images(tmp_path: Path) -> None:
    from attention_matching import DistilledSet
    from sextet_common.data import load

    main_of("distilled_student")(tmp_path, steps=30, pretraining=60, epochs=80, teacher_epochs=4, width=16, draws=1)
    result = result_of(tmp_path)
    assert_is_a_picture(tmp_path / "picture.png", 100)
    distilled = DistilledSet.from_pretrained(tmp_path / "hub" / "pixels")
    assert distilled.labels.tolist() == list(range(10))
    odd = load("digits").test_labels % 2
    for source in ("random real", "pixels", "latents"):
        for supervision in ("alone", "with teacher"):
            folder = tmp_path / f"student-{source}-{supervision}-0".replace(" ", "-")
            right = float((read_parity(folder / "model.safetensors", 16) == odd).mean())
            assert right == pytest.approx(result["students"][source][supervision][0], abs=1e-6)
    chance = max(odd.mean(), 1 - odd.mean())
    assert min(result["students"]["pixels"].values())[0] > chance + 0.1
    assert result["teacher"] > 0.9


@pytest.mark.slow
def test_a_generator_remembers_old_digits_and_is_trained_on_new_ones_alone(tmp_path: Path) -> None:
    from d2m_generator import load_generator

    main = main_of("generator_buffer")
    settings = {"ipc": 1, "generated": 10, "pretraining": 240, "distillation": 40, "epochs": 60}
    main(tmp_path, **settings)
    result = result_of(tmp_path)
    for name in ("picture.png", "curves.png"):
        assert_is_a_picture(tmp_path / name, 100)
    assert sorted(result["order"]) == list("0123456789")
    assert result["classes_seen"] == [5, 10]
    folders = [f"generator-{'-'.join(part)}" for part in (result["order"][:5], result["order"][5:])]
    assert sorted(path.name for path in tmp_path.glob("generator-*")) == sorted(folders)
    assert min(result["accuracy"]["generator"][0] - 1 / 5, result["accuracy"]["generator"][1] - 1 / 10) > 0.2

    # Classify by the nearest mean of real digits: most samples show the requested class.
    pixels, digits = load_digits(return_X_y=True)
    means = np.stack([pixels[digits == digit].mean(axis=0) / 16 for digit in range(10)])
    for folder, names in zip(folders, (result["order"][:5], result["order"][5:]), strict=True):
        generator = load_generator(tmp_path / folder / "d2m")
        assert generator.n_classes == 5
        labels = torch.arange(5).repeat_interleave(20)
        with torch.inference_mode():
            samples = generator.sample(labels, seed=7).clamp(0, 1).flatten(1).numpy()
        nearest = np.square(samples[:, None] - means).sum(axis=2).argmin(axis=1)
        assert (nearest == np.array([int(names[label]) for label in labels])).mean() > 0.5

    # Finished work is not repeated, and the result stays.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    main(tmp_path, **settings)
    assert result_of(tmp_path) == result
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_the_reduced_mixture_of_a_label_keeps_its_mean_and_covariance(tmp_path: Path) -> None:
    from gmr_metric import GaussianMixture

    main_of("label_map")(tmp_path, scenes=200, epochs=3, width=4, axes=3, components=2)
    result = result_of(tmp_path)
    assert_is_a_picture(tmp_path / "picture.png", 300)
    with np.load(tmp_path / "points.npz") as saved:
        places, share = saved["places"], saved["share"]
    assert places.shape == (600, 3)
    for label in range(10):
        rows = np.flatnonzero(share[:, label])
        mixture = GaussianMixture.load(tmp_path / "mixtures" / f"{label}.json")
        assert result["components"][str(label)] == [len(rows), 2]
        assert len(mixture) == 2
        weights = share[rows, label] / share[rows, label].sum()
        mean = weights @ places[rows]
        spread = (weights[:, None] * (places[rows] - mean)).T @ (places[rows] - mean)
        kernel = gaussian_kde(places[rows].T, weights=weights).covariance
        # Merges keep both moments; what is left is rounding.
        np.testing.assert_allclose(mixture.mean(), mean, atol=1e-9)
        np.testing.assert_allclose(mixture.covariance(), spread + kernel, rtol=1e-7, atol=1e-9)
    assert sorted("".join(result["groups"])) == sorted("0123456789") and len(result["groups"]) == 3
    assert result["whole_sets"] > 0.8  # 90 % in the mean over draws of 300 scenes
    angles = np.array(result["angles"])
    assert np.array_equal(angles, angles.T)
    assert angles.min() >= 0 and angles.max() <= np.pi / 2


@pytest.mark.slow
def test_kalman_estimates_are_those_of_a_textbook_and_positions_those_of_mujoco(tmp_path: Path) -> None:
    main_of("track_swimmer")(tmp_path, learning=8000, steps=150, episodes=2)
    result = result_of(tmp_path)
    assert_is_a_picture(tmp_path / "picture.png", 300)
    with np.load(tmp_path / "track.npz") as saved:
        found = {name: saved[name] for name in saved.files}
    for number in range(2):
        places, pictures = found[f"places{number}"], found[f"pictures{number}"]
        env = gymnasium.make("Swimmer-v5")
        env.reset(seed=number + 1)
        replayed = []
        for action in found[f"actions{number}"]:
            env.step(action)
            replayed.append(env.unwrapped.data.body("torso").xpos[:2].copy())
        np.testing.assert_allclose(places, replayed, atol=1e-12)

        # The Kalman filter of a textbook: predict, gain, correct.
        move, disturbance, look = found["transition"], found["disturbance"], np.eye(2, 4)
        mean, covariance = np.array([*pictures[0], 0, 0]), np.diag([0.4**2, 0.4**2, 1, 1])
        estimates = []
        for picture in pictures[1:]:
            mean, covariance = move @ mean, move @ covariance @ move.T + disturbance
            gain = covariance @ look.T @ np.linalg.inv(look @ covariance @ look.T + 0.02**2 * np.eye(2))
            mean, covariance = mean + gain @ (picture - look @ mean), covariance - gain @ look @ covariance
            estimates.append(mean[:2])
        np.testing.assert_allclose(found[f"Kalman filter, narrow noise, {number}"], estimates, atol=1e-9)
        for name, each in result["rmse"].items():
            off = np.linalg.norm(found[f"{name}, {number}"] - replayed[1:], axis=1)
            assert each[number] == pytest.approx(np.sqrt(np.mean(off**2)))
    # The filter that models the outliers has the smaller error and the larger likelihood.
    known, unknown = "Gaussian sum, 8 components, Runnalls", "Kalman filter, all the variance"
    assert np.mean(result["rmse"][known]) < np.mean(result["rmse"][unknown])
    assert np.mean(result["log_likelihood"][known]) > np.mean(result["log_likelihood"][unknown])
