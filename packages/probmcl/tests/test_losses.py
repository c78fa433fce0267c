from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from probmcl import (
    AsymmetricLoss,
    MixtureDensityHead,
    MixtureNLL,
    MixtureParameters,
    MultiLabelSupConLoss,
    ProbabilisticContrastiveLoss,
    ProbMCLLoss,
)
from sextet_common.errors import InputError
from torch import distributions as td
from torch.nn import functional

LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
def test_the_likelihood_is_torchs_and_its_label_term_a_literal_share(draw, covariance: str) -> None:
    mixture, points = draw(0, 4, 3, 2, covariance), torch.randn(4, 2).double()
    std = mixture.log_std.exp()
    std = std[..., None].expand_as(mixture.means) if covariance == "isotropic" else std
    each = td.Independent(td.Normal(mixture.means, std), 1).log_prob(points[:, None]) + mixture.log_weights
    density = each.exp().sum(dim=1)
    own = (each.exp() * LABELS).sum(dim=1)
    share = torch.where(LABELS.any(dim=1), -(own / density).log(), 0.0)
    torch.testing.assert_close(MixtureNLL("none")(mixture, points), -density.log())
    aware = MixtureNLL("none", label_aware="any")(mixture, points, LABELS)
    torch.testing.assert_close(aware, -density.log() + share)
    # Per dimension a component's density counts with the power 1 / D, its weight whole.
    scaled = (mixture.log_weights + (each - mixture.log_weights) / 2).exp()
    share = torch.where(LABELS.any(dim=1), -((scaled * LABELS).sum(dim=1) / scaled.sum(dim=1)).log(), 0.0)
    aware = MixtureNLL("none", label_aware="any", per_dimension=True)(mixture, points, LABELS)
    torch.testing.assert_close(aware, -density.log() / 2 + share)
    every = [
        -sum(float((each[row, k].exp() / density[row]).log()) for k in range(3) if LABELS[row, k])
        / max(1, LABELS[row].sum())
        for row in range(4)
    ]
    aware = MixtureNLL("none", label_aware="each")(mixture, points, LABELS)
    torch.testing.assert_close(aware, -density.log() + torch.tensor(every, dtype=torch.float64))
    assert float(MixtureNLL("sum")(mixture, points)) == pytest.approx(float(-density.log().sum()))
    assert float(MixtureNLL()(mixture, points)) == pytest.approx(float(-density.log().mean()))


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
@pytest.mark.parametrize("label_aware", ["any", "each"])
def test_gradients_of_the_likelihood_agree_with_finite_differences(draw, covariance: str, label_aware: Any) -> None:
    leaves = tuple(tensor.requires_grad_() for tensor in draw(1, 4, 3, 2, covariance))
    points = torch.randn(4, 2, dtype=torch.float64)
    loss = MixtureNLL(label_aware=label_aware)
    assert torch.autograd.gradcheck(lambda *t: loss(MixtureParameters(*t), points, LABELS), leaves)


def test_the_whole_loss_is_the_weighted_sum_of_its_terms(draw) -> None:
    mixture, points = draw(2, 4, 3, 2), torch.randn(4, 2, dtype=torch.float64)
    contrastive = ProbabilisticContrastiveLoss()(mixture, LABELS)
    assert float(contrastive) > 0
    standardised = (points - points.mean(dim=0)) / points.std(dim=0, correction=0)
    for standardise, targets in ((True, standardised), (False, points)):
        loss = ProbMCLLoss(weight=0.7, standardise_targets=standardise)
        parts, likelihood = loss.parts(mixture, points, LABELS), MixtureNLL()(mixture, targets)
        torch.testing.assert_close(parts.likelihood, likelihood, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(parts.contrastive, contrastive)
        torch.testing.assert_close(loss(mixture, points, LABELS), parts.likelihood + 0.7 * contrastive)


def test_points_that_all_agree_are_standardised_to_finite_ones(draw) -> None:
    points = torch.ones(4, 2, dtype=torch.float64).requires_grad_()
    ProbMCLLoss(detach_targets=False)(draw(2, 4, 3, 2), points, LABELS).backward()
    assert bool(points.grad.isfinite().all())


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_reach_the_points_only_without_detaching(draw, detach: bool) -> None:
    points = torch.randn(4, 2, dtype=torch.float64).requires_grad_()
    mixture = MixtureParameters(*(tensor.requires_grad_() for tensor in draw(3, 4, 3, 2)))
    ProbMCLLoss(detach_targets=detach)(mixture, points, LABELS).backward()
    assert (points.grad is None) is detach and mixture.means.grad is not None


def test_a_head_that_copies_its_point_is_stopped_by_the_floor_of_deviations() -> None:
    torch.manual_seed(0)
    head = MixtureDensityHead(3, 1, 2, hidden=(), min_std=0.5)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        points = head.project(torch.randn(32, 3))
        loss = MixtureNLL()(head.mixture(points), points)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = math.log(2 * math.pi * 0.5**2)  # two dimensions at the floor's deviation, the point on the mean
    assert floor - 1e-4 <= float(loss.detach()) < floor + 1.5


def asymmetric(x: np.ndarray, y: np.ndarray, plus: float, minus: float, margin: float) -> np.ndarray:
    p = 1 / (1 + np.exp(-x))
    shifted = np.maximum(p - margin, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = (1 - p) ** plus * np.log(p)
        negative = shifted**minus * np.log(1 - shifted)
    return -np.where(y == 1, positive, negative)


@pytest.mark.parametrize(("plus", "minus", "margin"), [(0, 4, 0.05), (1, 4, 0.05), (0, 0, 0), (2, 2, 0), (0.5, 3, 0.2)])
def test_the_asymmetric_loss_is_its_formula(plus: float, minus: float, margin: float) -> None:
    logits = 3 * torch.randn(6, 5, dtype=torch.float64)
    labels = (torch.rand(6, 5) < 0.4).long()
    expected = asymmetric(logits.numpy(), labels.numpy(), plus, minus, margin)
    found = AsymmetricLoss(plus, minus, margin, "none")(logits, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-11)
    for reduction, value in (("mean", expected.mean()), ("sum", expected.sum()), ("batchmean", expected.sum() / 6)):
        assert float(AsymmetricLoss(plus, minus, margin, reduction)(logits, labels)) == pytest.approx(value)


@pytest.mark.parametrize("detach", [True, False])
def test_the_asymmetric_loss_is_timms(detach: bool) -> None:
    timm = pytest.importorskip("timm.loss")
    logits, labels = (3 * torch.randn(8, 6)).requires_grad_(), (torch.rand(8, 6) < 0.4).float()
    theirs = timm.AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=0.05, disable_torch_grad_focal_loss=detach)
    ours = AsymmetricLoss(1, 4, 0.05, "sum", detach_weights=detach)
    # Which reduction is timm's default has changed between its releases: the scale is taken out.
    a, b = ours(logits, labels), theirs(logits, labels)
    scale = float((a / b).detach())
    assert min(abs(scale - expected) for expected in (1, 8, 48)) < 1e-4
    (slope,), (other,) = torch.autograd.grad(a, logits), torch.autograd.grad(b, logits)
    torch.testing.assert_close(slope, other * scale, rtol=1e-4, atol=1e-6)


def test_without_asymmetry_it_is_binary_cross_entropy_far_into_the_tails() -> None:
    logits = torch.tensor([[-200.0, 200.0, -30.0, 30.0, 0.0]]).requires_grad_()
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]])
    found = AsymmetricLoss(0, 0, 0, "none")(logits, labels)
    torch.testing.assert_close(found, functional.binary_cross_entropy_with_logits(logits, labels, reduction="none"))
    (slope,) = torch.autograd.grad(AsymmetricLoss(1.5, 4, 0.05, "sum")(logits, labels), logits)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize(("plus", "minus", "margin"), [(0, 4, 0.05), (1.5, 2.5, 0.1)])
def test_gradients_of_the_asymmetric_loss_agree_with_finite_differences(
    plus: float, minus: float, margin: float
) -> None:
    logits = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    loss = AsymmetricLoss(plus, minus, margin)
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS), (logits,))


def test_autocast_and_half_precision_are_computed_in_float32() -> None:
    logits = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        value = AsymmetricLoss()(logits.bfloat16(), LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, AsymmetricLoss()(logits.bfloat16().float(), LABELS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AsymmetricLoss(-1), "gamma_positive must be a number >= 0, got -1"),
        (lambda: AsymmetricLoss(0, math.inf), "gamma_negative must be a number >= 0, got inf"),
        (lambda: AsymmetricLoss(margin=1.0), r"margin must be a number in \[0, 1\), got 1"),
        (lambda: AsymmetricLoss(reduction="max"), "reduction must be mean, batchmean, sum or none, got 'max'"),
        (lambda: AsymmetricLoss(class_weight=torch.tensor([1.0, -1.0])), r"class_weight is \[1.0, -1.0\]"),
        (lambda: MixtureNLL(label_aware="all"), "label_aware must be none, any or each, got 'all'"),
        (lambda: MixtureNLL("max"), "reduction must be mean, sum or none, got 'max'"),
        (lambda: ProbMCLLoss(weight=-1), "weight must be a number >= 0, got -1"),
        (lambda: ProbMCLLoss(likelihood=MixtureNLL("none")), "reduction 'none'"),
        (lambda: AsymmetricLoss()(torch.zeros(2, 3), torch.zeros(2, 4)), r"\(2, 3\) and \(2, 4\)"),
    ],
)
def test_options_outside_their_bounds_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_label_aware_likelihood_needs_labels_that_fit(draw) -> None:
    mixture, points = draw(0, 4, 3, 2), torch.zeros(4, 2).double()
    for labels, message in ((None, "no labels"), (torch.zeros(4, 5), r"labels of shape \(4, 5\)")):
        with pytest.raises(InputError, match=message):
            MixtureNLL(label_aware="any")(mixture, points, labels)


def test_the_floor_of_the_variance_is_added_before_points_are_standardised(draw) -> None:
    mixture, points = draw(2, 4, 3, 2), 1e-3 * torch.randn(4, 2, dtype=torch.float64)
    variance = points.var(dim=0, correction=0)
    expected = MixtureNLL()(mixture, (points - points.mean(dim=0)) / (variance + 1e-6).sqrt())
    torch.testing.assert_close(ProbMCLLoss().parts(mixture, points, LABELS).likelihood, expected)


def test_defaults_are_those_that_are_documented() -> None:
    loss = ProbMCLLoss()
    assert (loss.weight, loss.detach_targets, loss.standardise_targets) == (0.3, True, True)
    assert (loss.likelihood.reduction, loss.likelihood.per_dimension, loss.likelihood.label_aware) == (
        "mean", False, "none"
    )  # fmt: skip
    assert (loss.contrastive.temperature, loss.contrastive.threshold, loss.contrastive.per_dimension) == (
        0.2, 0.5, True
    )  # fmt: skip
    supervised = MultiLabelSupConLoss()
    assert (supervised.temperature, supervised.threshold, supervised.weight) == (0.1, 0.5, "none")
    asymmetric = AsymmetricLoss()
    assert (asymmetric.gamma_positive, asymmetric.gamma_negative, asymmetric.margin) == (0, 4, 0.05)
    assert not asymmetric.detach_weights


@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum", "none"])
def test_unknown_labels_have_no_asymmetric_loss_and_soft_ones_a_share_of_both_terms(reduction: Any) -> None:
    logits = (3 * torch.randn(4, 3, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([[1, 0.3, -1], [-1, -1, -1], [3, 0, 1], [-2, 0, 0.5]], dtype=torch.float64)
    x, weights = logits.detach().numpy(), np.array([1.0, 2.0, 0.5])
    positive, negative = (asymmetric(x, np.full((4, 3), y), 0, 4, 0.05) for y in (1, 0))
    y = np.minimum(labels.numpy(), 1)
    each = np.where(y >= 0, (y * positive + (1 - y) * negative) * weights, 0)
    expected = {"mean": each.sum() / 7, "batchmean": each.sum() / 3, "sum": each.sum(), "none": each}[reduction]
    loss = AsymmetricLoss(reduction=reduction, class_weight=torch.tensor(weights))
    found = loss(logits, labels)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert torch.equal(slope == 0, (labels < 0) | ((labels == 0) & (logits.sigmoid() <= 0.05)))
    assert float(loss(logits, -torch.ones(4, 3)).detach().sum()) == 0
    assert not loss.state_dict()


@pytest.mark.parametrize("label_aware", ["any", "each"])
def test_components_of_unknown_labels_are_left_out_of_the_likelihoods_shares(draw, label_aware: Any) -> None:
    mixture, points = draw(0, 4, 3, 2), torch.randn(4, 2, dtype=torch.float64)
    labels = torch.tensor([[1, 0, -1], [1, 1, -1], [0, 0, -1], [-1, -1, -1]])
    with_term, without = (
        MixtureNLL("none", label_aware=kind)(mixture, points, labels) for kind in (label_aware, "none")
    )
    share = mixture.log_joint(points)[:, :2].softmax(dim=1).log()
    each = share[1].mean() if label_aware == "each" else share[1].logsumexp(dim=0)
    torch.testing.assert_close(with_term - without, -torch.stack([share[0, 0], each, 0 * each, 0 * each]))


def test_logits_must_be_a_table() -> None:
    with pytest.raises(InputError, match=r"\(batch, labels\) both"):
        AsymmetricLoss()(torch.zeros(3), torch.zeros(3))


def test_a_term_of_weight_zero_is_not_computed(draw) -> None:
    mixtures, points = draw(0, 4, 3, 2), torch.randn(4, 2, dtype=torch.float64)
    labels = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 1, 0]])
    whole = ProbMCLLoss(weight=0.5, likelihood_weight=0.25).parts(mixtures, points, labels)
    torch.testing.assert_close(whole.total, 0.25 * whole.likelihood + 0.5 * whole.contrastive)
    broken = labels[:, :2]  # neither term accepts these points and these labels
    only = ProbMCLLoss(weight=0.5, likelihood_weight=0.0).parts(mixtures, points[:1], labels)
    assert only.likelihood == 0 and only.total == 0.5 * only.contrastive and only.contrastive == whole.contrastive
    only = ProbMCLLoss(weight=0.0, likelihood_weight=0.25).parts(mixtures, points, broken[:1])
    assert only.contrastive == 0 and only.total == 0.25 * only.likelihood and only.likelihood == whole.likelihood
    with pytest.raises(InputError, match="weight and likelihood_weight are 0"):
        ProbMCLLoss(weight=0.0, likelihood_weight=0.0)
