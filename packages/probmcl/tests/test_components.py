"""The comparison by label, and that every similarity learns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gmr_metric import GaussianMixture, similarity
from probmcl import MixtureDensityHead, MixtureParameters, ProbabilisticContrastiveLoss, component_similarity
from sextet_common.errors import InputError
from torch import nn

LABELS = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]])
both = pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])


def log_cosine(f: MixtureParameters, i: int, k: int, g: MixtureParameters, j: int, n: int) -> float:
    """The closed form of two Gaussians, a product over their dimensions, over the number of these."""
    dims = f.means.shape[2]
    s = f.log_std[i, k].exp().expand(dims).tolist()
    t = g.log_std[j, n].exp().expand(dims).tolist()
    total = 0.0
    for a, b, x, y in zip(s, t, f.means[i, k].tolist(), g.means[j, n].tolist(), strict=True):
        total += math.log(2 * a * b / (a * a + b * b)) / 2 - (x - y) ** 2 / (2 * (a * a + b * b))
    return total / dims


def literal(
    f: MixtureParameters, labels: Any, g: MixtureParameters | None, others: Any, t: float, weights: Any, own: Any
) -> tuple[list[tuple[int, float]], float]:
    """The loss of every anchor (i, k), weighted, by loops, and the sum of the weights."""
    to, table = (f, labels) if g is None else (g, others)
    losses, total = [], 0.0
    for i, k in [(i, k) for i, row in enumerate(labels) for k, y in enumerate(row) if y > 0]:
        compared = [j for j in range(len(table)) if j != (i if g is None else own[i]) and table[j][k] >= 0]
        positive = {j: min(1, table[j][k]) for j in compared if table[j][k] > 0}
        if not positive:
            continue
        logits = {j: log_cosine(f, i, k, to, j, k) / t for j in compared}
        denominator = math.log(sum(math.exp(x) for x in logits.values()))
        mean = sum(w * logits[j] for j, w in positive.items()) / sum(positive.values())
        weight = min(1, labels[i][k]) * weights[k]
        losses.append((i, weight * (denominator - mean)))
        total += weight
    return losses, total


@both
@pytest.mark.parametrize("referred", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_the_comparison_by_label_is_the_literal_loop(draw, covariance: str, referred: bool, soft: bool) -> None:
    f, g = draw(0, 6, 3, 4, covariance), draw(1, 4, 3, 4, covariance)
    labels, others, own = LABELS.double(), LABELS[[1, 3, 0, 5]].double(), [2, 0, -1, 1, -1, 3]
    weights = torch.tensor([1.0, 0.5, 2.0]) if soft else None
    labels[3, 0], others[1, 1] = -1, -1  # unknown
    if soft:
        labels, others = labels * torch.tensor([0.3, 1.0, 3.0]), others * torch.tensor([0.6, 0.2, 1.0])
    given = {"ref_emb": g, "ref_labels": others, "self_index": torch.tensor(own)} if referred else {}
    each = [1.0] * 3 if weights is None else weights.tolist()
    losses, total = literal(f, labels.tolist(), g if referred else None, others.tolist(), 0.3, each, own)
    loss = ProbabilisticContrastiveLoss(0.3, class_weight=weights)
    assert float(loss(f, labels, **given)) == pytest.approx(sum(x for _, x in losses) / total, rel=1e-6)
    loss.reduction = "sum"
    assert float(loss(f, labels, **given)) == pytest.approx(sum(x for _, x in losses), rel=1e-6)
    loss.reduction = "none"
    rows = [sum(x for i, x in losses if i == row) for row in range(6)]
    np.testing.assert_allclose(loss(f, labels, **given), rows, rtol=1e-6)


@both
def test_the_similarity_of_two_components_is_that_of_gmr_metrics_numpy_core(draw, covariance: str) -> None:
    f, g = draw(2, 3, 1, 4, covariance), draw(3, 2, 1, 4, covariance)

    def numpy(mixtures: MixtureParameters, row: int) -> GaussianMixture:
        variances = mixtures.variances[row].reshape(1, -1).expand(1, 4)
        return GaussianMixture(np.ones(1), mixtures.means[row].numpy(), torch.diag_embed(variances).numpy())

    expected = [[math.log(similarity(numpy(f, i), numpy(g, j))) / 4 for j in range(2)] for i in range(3)]
    found = component_similarity(f.means[:, 0], f.log_std[:, 0], g.means[:, 0], g.log_std[:, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    own = component_similarity(f.means[:, 0], f.log_std[:, 0], per_dimension=False)
    by_hand = [[4 * log_cosine(f, i, 0, f, j, 0) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(own, by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dims", [2, 16, 256])
def test_normalised_means_of_deviation_one_give_the_cosine_in_any_number_of_dimensions(dims: int) -> None:
    head = MixtureDensityHead(6, 3, dims, hidden=(8,))
    means = head(torch.randn(5, 6)).means.flatten(0, 1).detach()
    torch.testing.assert_close(means.norm(dim=1), torch.full((15,), math.sqrt(dims)))
    cosine = nn.functional.cosine_similarity(means[:, None], means, dim=2)
    torch.testing.assert_close(component_similarity(means, torch.zeros(15)), (cosine - 1) / 2, atol=1e-5, rtol=1e-5)


@both
def test_gradients_of_the_comparison_by_label_agree_with_finite_differences(draw, covariance: str) -> None:
    leaves = tuple(tensor.requires_grad_() for tensor in draw(4, 6, 3, 2, covariance)[1:])
    weights, loss = draw(4, 6, 3, 2, covariance)[0], ProbabilisticContrastiveLoss(0.3)
    assert torch.autograd.gradcheck(lambda *t: loss(MixtureParameters(weights, *t), LABELS), leaves, atol=1e-6)


@pytest.mark.parametrize("dims", [8, 128])
@pytest.mark.parametrize("kind", ["label", "mixture", "cosine", "angular", "aligned"])
def test_ten_steps_lower_the_loss_of_every_similarity_by_a_fifth(kind: Any, dims: int) -> None:
    torch.manual_seed(0)
    labels = (torch.eye(16) + torch.eye(16).roll(1, dims=1)).repeat(2, 1)  # two labels an image, in two views
    features = labels @ torch.randn(16, 32) + 0.3 * torch.randn(32, 32)
    head, loss = MixtureDensityHead(32, 16, dims, hidden=(32,)), ProbabilisticContrastiveLoss(similarity=kind)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    values = []
    for _ in range(11):
        value = loss(head(features), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.8 * values[0]  # of "label" the least possible value is log 3, for three equal positives


def test_labels_need_a_component_each(draw) -> None:
    with pytest.raises(InputError, match=r"labels have shape \(6, 3\), for mixtures of shape \(6, 2\)"):
        ProbabilisticContrastiveLoss()(draw(0, 6, 2, 2), LABELS)
    with pytest.raises(InputError, match="rows are a Tensor; expected: MixtureParameters"):
        ProbabilisticContrastiveLoss()(torch.zeros(6, 2), LABELS)


def test_a_learned_temperature_is_a_parameter_that_stays_at_a_hundredth_or_more(draw) -> None:
    f, loss = draw(0, 6, 3, 2), ProbabilisticContrastiveLoss(0.05, learn_temperature=True)
    assert [name for name, _ in loss.named_parameters()] == ["log_scale"]
    torch.testing.assert_close(loss(f, LABELS).detach(), ProbabilisticContrastiveLoss(0.05)(f, LABELS))
    loss(f, LABELS).backward()
    step = 1e-3
    slope = [float(ProbabilisticContrastiveLoss(0.05 * math.exp(-x))(f, LABELS)) for x in (step, -step)]
    assert float(loss.log_scale.grad) == pytest.approx((slope[0] - slope[1]) / (2 * step), rel=1e-3)
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    torch.testing.assert_close(loss(f, LABELS).detach(), ProbabilisticContrastiveLoss(0.01)(f, LABELS))
    assert loss.temperature == pytest.approx(0.01)
