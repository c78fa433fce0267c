from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from probmcl import (
    Config,
    HeadConfig,
    LabelGaussians,
    MixtureParameters,
    ProbMCL,
    error_ranking,
    mutual_information,
    probability_uncertainty,
    risk_coverage,
)
from probmcl.reliability import embeddings, kinds
from probmcl.scenes import compose, digits
from scipy.stats import multivariate_normal
from sextet_common import checkpoint
from sextet_common.errors import InputError
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

DATA = compose(digits(), sizes=(80, 60, 40))
SMALL = {"epochs": 2, "classifier_epochs": 2, "batch_size": 16, "head": HeadConfig(8, hidden=(16,)), "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> ProbMCL:
    return ProbMCL("convnet", config=Config(**SMALL), width=2).fit(DATA)


def test_kinds_of_probabilities_equal_sums_over_all_label_sets() -> None:
    p = np.random.default_rng(0).random((6, 4))
    sets = np.array(list(itertools.product((0, 1), repeat=4)))
    joint = np.where(sets, p[:, None], 1 - p[:, None]).prod(axis=2)  # (rows, label sets)
    np.testing.assert_allclose(
        probability_uncertainty(torch.tensor(p), "entropy"), -(joint * np.log(joint)).sum(axis=1)
    )
    predicted = (p > 0.5) @ [8, 4, 2, 1]
    np.testing.assert_allclose(
        probability_uncertainty(torch.tensor(p), "any_error"), 1 - joint[np.arange(6), predicted]
    )
    np.testing.assert_allclose(probability_uncertainty(torch.tensor(p), "margin"), 0.5 - np.abs(p - 0.5).min(axis=1))


@pytest.mark.parametrize("kind", get_args(kinds.OfProbabilities))
def test_sure_probabilities_have_no_uncertainty_and_even_ones_the_most(kind: str) -> None:
    sure = torch.tensor([[0.0, 1.0, 1.0]])
    assert probability_uncertainty(sure, kind).tolist() == [0]
    draw = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    assert bool((probability_uncertainty(draw, kind) < probability_uncertainty(torch.full((1, 3), 0.5), kind)).all())
    each = probability_uncertainty(draw, kind, per_label=True)
    assert each.shape == (50, 3)
    torch.testing.assert_close(each[:, 0], probability_uncertainty(draw[:, :1], kind))
    with pytest.raises(InputError, match="must pass a sigmoid"):
        probability_uncertainty(torch.tensor([[2.0]]), kind)


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
def test_mutual_information_is_a_lower_bound_that_samples_confirm(draw, covariance: str) -> None:
    mixture = draw(3, 4, 3, 2, covariance)
    found = mutual_information(mixture)
    random = torch.Generator().manual_seed(0)
    for row in range(4):
        weights, means = mixture.log_weights[row].exp(), mixture.means[row]
        std = mixture.log_std[row].exp()
        std = std[:, None].expand_as(means) if covariance == "isotropic" else std
        chosen = torch.multinomial(weights, 40_000, replacement=True, generator=random)
        points = means[chosen] + std[chosen] * torch.randn(40_000, 2, generator=random, dtype=means.dtype)
        one = MixtureParameters(*(tensor[row : row + 1].expand(40_000, *tensor.shape[1:]) for tensor in mixture))
        log_joint = one.log_joint(points)
        log_posterior = log_joint - log_joint.logsumexp(dim=1, keepdim=True)
        conditional = -(log_posterior.exp() * log_posterior).sum(dim=1).mean()
        true = float(-(weights * weights.log()).sum() - conditional)
        assert 0 < float(found[row]) < true + 0.01
        assert float(found[row]) > 0.5 * true  # a bound, but no loose one


def test_mutual_information_of_isotropic_and_equal_diagonal_components_is_the_same(draw) -> None:
    one = draw(0, 5, 6, 3)
    same = MixtureParameters(one.log_weights, one.means, one.log_std[..., None].expand_as(one.means))
    torch.testing.assert_close(mutual_information(one), mutual_information(same))
    equal = MixtureParameters(one.log_weights, one.means[:, :1].expand_as(one.means), torch.zeros_like(one.log_std))
    torch.testing.assert_close(mutual_information(equal), torch.zeros(5, dtype=torch.float64))


def test_distance_is_the_negative_log_density_of_one_gaussian_a_label() -> None:
    draw = np.random.default_rng(0)
    labels = (draw.random((200, 3)) < 0.4).astype(int)
    points = labels @ draw.normal(size=(3, 4)) + draw.normal(size=(200, 4)) + 2
    gaussians = LabelGaussians.fit(points, labels)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    groups = [unit[labels[:, k] == 1] for k in range(3)] + [unit[labels.sum(axis=1) == 0]]
    residuals = np.concatenate([group - group.mean(axis=0) for group in groups])
    covariance = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    weights = np.array([len(group) for group in groups]) / len(residuals)
    density = sum(
        w * multivariate_normal(group.mean(axis=0), covariance).pdf(unit)
        for w, group in zip(weights, groups, strict=True)
    )
    expected = -np.log(density) - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(gaussians.distance(points), expected, rtol=1e-3, atol=1e-3)  # float32 is kept
    np.testing.assert_allclose(gaussians.distance(3 * points), gaussians.distance(points), rtol=1e-6, atol=1e-6)


def test_unknown_and_rare_labels_have_no_gaussian() -> None:
    draw = np.random.default_rng(0)
    points, labels = draw.normal(size=(30, 3)), np.zeros((30, 4), dtype=int)
    labels[:12, 0] = labels[12:20, 1] = labels[20:21, 2] = 1
    labels[21:, :] = -1
    gaussians = LabelGaussians.fit(points, labels)
    np.testing.assert_allclose(gaussians.weights, [12 / 20, 8 / 20], rtol=1e-6)
    assert embeddings.chosen_rows(labels, 0).tolist() == list(range(21))
    assert embeddings.chosen_rows(labels[19:22], 0).size == 0
    with pytest.raises(InputError, match="no label has two images"):
        LabelGaussians.fit(points[20:21], labels[20:21])
    with pytest.raises(InputError, match=r"\(2, 4\); expected: \(rows, 3\)"):
        gaussians.distance(np.zeros((2, 4)))


def test_of_many_rows_a_fixed_draw_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MOST_ROWS", 10)
    labels = np.ones((50, 2), dtype=int)
    rows = embeddings.chosen_rows(labels, 3)
    assert len(rows) == 10 and np.all(np.diff(rows) > 0)
    assert rows.tolist() == embeddings.chosen_rows(labels, 3).tolist() != embeddings.chosen_rows(labels, 4).tolist()


def test_auroc_and_the_area_under_the_risk_coverage_curve_equal_means_over_orders_of_ties() -> None:
    draw = np.random.default_rng(0)
    values, wrong = draw.integers(4, size=60).astype(float), draw.random(60) < 0.3
    ranking = error_ranking(values, wrong)
    assert ranking.auroc == roc_auc_score(wrong, values) and ranking.error == wrong.mean()
    areas = []
    for _ in range(4000):
        order = np.lexsort((draw.random(60), values))
        areas.append((np.cumsum(wrong[order]) / np.arange(1, 61)).mean())
    assert ranking.aurc == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / 4000**0.5)
    perfect = error_ranking(wrong.astype(float), wrong)
    assert perfect.auroc == 1 and perfect.aurc == perfect.best_aurc == ranking.best_aurc < ranking.aurc
    constant = error_ranking(np.zeros(60), wrong)
    assert constant.auroc == 0.5 and constant.aurc == pytest.approx(wrong.mean())
    coverage, risk = risk_coverage(values, wrong)
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(wrong.mean())
    assert np.isnan(error_ranking(values, np.zeros(60)).auroc)


@pytest.mark.parametrize("kind", get_args(kinds.Kind))
def test_a_model_offers_every_kind_and_keeps_it_when_saved(model: ProbMCL, tmp_path: Path, kind: str) -> None:
    values = model.uncertainty(DATA.test, kind)
    assert values.shape == (40,) and values.dtype == torch.float32 and bool(values.isfinite().all())
    model.save(tmp_path / "m.safetensors")
    again = ProbMCL.load(tmp_path / "m.safetensors", on="cpu")
    assert torch.equal(again.uncertainty(DATA.test, kind), values)
    assert kinds.UNITS[kind]


def test_uncertainty_without_a_kind_returns_the_variances_as_before(model: ProbMCL) -> None:
    with pytest.warns(DeprecationWarning, match=r"without a kind is deprecated; use variances\(...\), or a kind"):
        found = model.uncertainty(DATA.test)
    expected = model.variances(DATA.test)
    assert torch.equal(found.between, expected.between) and torch.equal(found.within, expected.within)
    assert torch.equal(model.uncertainty(DATA.test, "total"), expected.total)
    with pytest.raises(InputError, match="kind must be entropy, margin"):
        model.uncertainty(DATA.test, "variance")


@pytest.mark.parametrize("method", ["supcon", "asymmetric", "bce"])
def test_methods_without_mixtures_have_the_other_kinds(method: str) -> None:
    plain = ProbMCL("convnet", config=Config(**SMALL, method=method), width=2).fit(DATA)
    for kind in (*get_args(kinds.OfProbabilities), "distance"):
        assert plain.uncertainty(DATA.test, kind).shape == (40,)
    for kind in get_args(kinds.OfMixtures):
        with pytest.raises(InputError, match="has no mixture density head"):
            plain.uncertainty(DATA.test, kind)


def test_the_distance_is_to_the_training_images_or_to_others(model: ProbMCL) -> None:
    labels = np.array(DATA.train.labels)
    expected = LabelGaussians.fit(model.embed(DATA.train).numpy(), labels)
    values = model.uncertainty(DATA.test, "distance")
    np.testing.assert_allclose(values, expected.distance(model.embed(DATA.test).numpy()), rtol=1e-5)
    noise = np.random.default_rng(0).random(DATA.test.inputs.shape, dtype=np.float32)
    assert bool((model.uncertainty(noise, "distance") > values.max()).all())


def test_a_model_of_an_earlier_release_has_a_distance_once_it_is_fitted(model: ProbMCL, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    saved = checkpoint.load(tmp_path / "m.safetensors", "torch")
    arrays = {name: array for name, array in saved.arrays.items() if not name.startswith("reliability.")}
    meta = {name: value for name, value in saved.meta.items() if name != "reliability"}
    checkpoint.save(tmp_path / "old.safetensors", arrays, meta)
    old = ProbMCL.load(tmp_path / "old.safetensors", on="cpu")
    assert torch.equal(old.predict_proba(DATA.test), model.predict_proba(DATA.test))
    with pytest.raises(InputError, match=r"no Gaussians of its training images; expected: fit_distance"):
        old.uncertainty(DATA.test, "distance")
    with pytest.raises(InputError, match="no thresholds for sets of labels"):
        old.predict_sets(DATA.test)
    old.fit_distance(DATA.train)
    assert torch.equal(old.uncertainty(DATA.test, "distance"), model.uncertainty(DATA.test, "distance"))


@pytest.mark.parametrize("name", ["means", "weights", "whitening", "thresholds"])
def test_a_damaged_file_is_refused(model: ProbMCL, tmp_path: Path, name: str) -> None:
    model.conformal(DATA.validation)
    model.save(tmp_path / "m.safetensors")
    saved = checkpoint.load(tmp_path / "m.safetensors", "torch")
    arrays = {**saved.arrays, f"reliability.{name}": saved.arrays[f"reliability.{name}"][:-1].clone()}
    checkpoint.save(tmp_path / "bad.safetensors", arrays, saved.meta)
    with pytest.raises(InputError):
        ProbMCL.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("guarantee", ["recall", "set"])
def test_sets_of_labels_are_those_above_the_thresholds_and_kept_when_saved(
    model: ProbMCL, tmp_path: Path, guarantee: str
) -> None:
    sets = model.conformal(DATA.validation, 0.8, guarantee)
    probabilities = model.predict_proba(DATA.test)
    predicted = model.predict_sets(DATA.test)
    assert torch.equal(predicted, probabilities.double() >= float(sets.thresholds[0]))
    on_its_own = sets.measure(model.predict_proba(DATA.validation), np.array(DATA.validation.labels))
    assert on_its_own.of(guarantee) >= 0.8
    model.save(tmp_path / "m.safetensors")
    again = ProbMCL.load(tmp_path / "m.safetensors", on="cpu")
    assert torch.equal(again.predict_sets(DATA.test), predicted)
    assert vars(again.reliability.sets) | {"thresholds": 0} == vars(sets) | {"thresholds": 0}


def test_a_finished_run_that_is_trained_again_keeps_its_sets_and_one_of_other_weights_does_not(tmp_path: Path) -> None:
    fast = Config(**{**SMALL, "epochs": 1, "classifier_epochs": 1}, method="bce")
    model = ProbMCL("convnet", config=fast, width=2).fit(DATA, tmp_path / "run")
    model.conformal(DATA.validation, 0.8)
    model.save(tmp_path / "run" / "model.safetensors")
    again = ProbMCL("convnet", config=fast, width=2).fit(DATA, tmp_path / "run")
    assert torch.equal(again.predict_sets(DATA.test), model.predict_sets(DATA.test))
    assert torch.equal(ProbMCL.load(tmp_path / "run").predict_sets(DATA.test), model.predict_sets(DATA.test))
    other = ProbMCL("convnet", config=fast, width=2).fit(DATA, tmp_path / "other")
    with torch.no_grad():
        model._fitted().classifier.bias.add_(1)
    model.save(tmp_path / "other" / "model.safetensors")
    other.fit(DATA, tmp_path / "other")
    assert other.reliability.sets is None
