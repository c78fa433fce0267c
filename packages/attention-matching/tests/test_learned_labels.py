"""Learned labels: the solution of a quadratic problem on the simplex, checked by other means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from attention_matching import EvaluateConfig, Preprocessing, evaluate, learned_labels_from, random_real
from attention_matching.evaluation.learned_labels import minimise, project
from attention_matching.images.distilled import DistilledSet
from attention_matching.networks.base import FeatureNetwork, Features
from sextet_common import data
from sextet_common.errors import InputError
from torch import nn


class AsTheyAre(FeatureNetwork):
    """Embeds images as their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Identity()

    def features(self, images: torch.Tensor) -> Features:
        return Features((), images.flatten(1))


def toy(n: int = 5, classes: int = 3, real: int = 40) -> tuple[DistilledSet, data.ImageSet]:
    draw = np.random.default_rng(0)
    labels = np.arange(real) % classes
    images = draw.random((real, 1, 2, 4), dtype=np.float32) * 0.5 + 0.1 * labels[:, None, None, None].astype(np.float32)
    source = data.ImageSet.of(images, labels, images, labels)
    few = DistilledSet(
        torch.from_numpy(draw.random((n, 1, 2, 4), dtype=np.float32)),
        torch.arange(n) % classes,
        source.classes,
        Preprocessing(torch.zeros(1), torch.ones(1)),
    )
    return few, source


def objective(
    few: DistilledSet, source: data.ImageSet, ridge: float, pull: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The error that is minimised, as the documentation states it, without normal equations."""
    points, real = few.images.flatten(1).double(), torch.tensor(source.train_images).flatten(1).double()
    centre = points.mean(dim=0)
    points, real = points - centre, real - centre
    kernel = points @ points.T
    classes = len(few.classes)
    linear = real @ points.T @ torch.linalg.inv(kernel + ridge * kernel.diagonal().mean() * torch.eye(len(points)))
    weight = pull * (linear.square().sum(dim=0) / len(real)).mean()
    wanted = nn.functional.one_hot(torch.tensor(source.train_labels), classes)
    hard = nn.functional.one_hot(few.labels, classes)

    def error(labels: torch.Tensor) -> torch.Tensor:
        predicted = linear @ (labels - 1 / classes) + 1 / classes
        return (predicted - wanted).square().sum() / len(real) + weight * (labels - hard).square().sum()

    return error


@pytest.mark.parametrize(("ridge", "pull"), [(1e-3, 0.0), (1e-3, 0.3), (1.0, 2.0)])
def test_learned_labels_have_the_smallest_error_that_gradient_descent_reaches(ridge: float, pull: float) -> None:
    few, source = toy()
    learned = learned_labels_from(few, source, teacher=AsTheyAre(), ridge=ridge, pull=pull).soft_labels
    assert learned is not None
    error = objective(few, source, ridge, pull)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        numbers = torch.from_numpy(free).requires_grad_()
        value = error(numbers.view(-1, 3).softmax(dim=1))  # covers the simplex
        return value.item(), torch.autograd.grad(value, numbers)[0].numpy()

    descended = scipy.optimize.minimize(loss, np.zeros(3 * len(few)), jac=True, method="L-BFGS-B")
    reached = float(error(learned.double()))
    assert reached <= descended.fun + 1e-6  # float32 labels
    hard = nn.functional.one_hot(few.labels, 3).double()
    assert reached < float(error(hard)) - 1e-3
    assert torch.allclose(learned, torch.from_numpy(descended.x).view(-1, 3).softmax(dim=1).float(), atol=0.02)


def test_without_an_active_bound_the_labels_solve_the_linear_system() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    curvature = root @ root.T + torch.eye(6)
    inside = torch.rand(6, 4, generator=generator, dtype=torch.float64).softmax(dim=1)
    assert torch.allclose(minimise(curvature, curvature @ inside, torch.zeros(6, 4).double()), inside, atol=1e-6)


def test_the_projection_is_the_nearest_point_of_the_simplex() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (6, 4)))
    nearest = project(rows)
    assert bool((nearest >= 0).all()) and torch.allclose(nearest.sum(dim=1), torch.ones(6).double())
    for row, found in zip(rows.numpy(), nearest.numpy(), strict=True):
        result = scipy.optimize.minimize(
            lambda x, row=row: ((x - row) ** 2).sum(),
            np.full(4, 0.25),
            jac=lambda x, row=row: 2 * (x - row),
            bounds=[(0, None)] * 4,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(found, result.x, atol=1e-5)


def test_learned_labels_do_not_depend_on_how_the_real_images_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, brief = data.load("digits"), EvaluateConfig(width=8)
    chosen = random_real(digits, 1)
    whole = learned_labels_from(chosen, digits, brief, networks=2, images=700)
    monkeypatch.setattr("attention_matching.evaluation.learned_labels._BATCH", 90)
    small = learned_labels_from(chosen, digits, brief, networks=2, images=700)
    assert whole.soft_labels is not None and small.soft_labels is not None
    assert torch.allclose(whole.soft_labels, small.soft_labels, atol=1e-4)  # convolutions round by batch
    assert whole.meta["soft_labels"]["by"] == "learning"


def test_networks_learn_from_learned_labels() -> None:
    digits, config = data.load("digits"), EvaluateConfig(networks=1, epochs=60, width=16, labels="soft")
    learned = learned_labels_from(random_real(digits, 5), digits, config, networks=2)
    assert evaluate(learned, digits, config).mean > 0.5  # chance is 0.1


@pytest.mark.parametrize(("name", "value"), [("networks", 0), ("images", 0), ("ridge", 0.0), ("pull", -1.0)])
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    few, source = toy()
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        learned_labels_from(few, source, **{name: value})
