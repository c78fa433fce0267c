from __future__ import annotations

import math

import pytest
import torch
from probmcl import MixtureDensityHead, MixtureParameters
from sextet_common.errors import InputError
from torch import distributions as td

both = pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])


@both
@pytest.mark.parametrize("components", [1, 4])
def test_the_log_density_is_that_of_torchs_own_mixture(draw, covariance: str, components: int) -> None:
    mixture = draw(0, 5, components, 3, covariance)
    points = torch.randn(5, 3, dtype=torch.float64)
    std = mixture.log_std.exp()
    std = std[..., None].expand_as(mixture.means) if covariance == "isotropic" else std
    parts = td.Independent(td.Normal(mixture.means, std), 1)
    expected = td.MixtureSameFamily(td.Categorical(logits=mixture.log_weights), parts).log_prob(points)
    torch.testing.assert_close(mixture.log_prob(points), expected)
    torch.testing.assert_close(mixture.log_joint(points).logsumexp(dim=1), expected)


@both
@pytest.mark.parametrize("positive", ["elu", "softplus", "exp"])
@pytest.mark.parametrize("mean", ["vector", "scalar"])
def test_the_head_is_the_paper_figures_chain_of_layers(covariance: str, positive: str, mean: str) -> None:
    head = MixtureDensityHead(
        6, 3, 4, covariance, hidden=(8, 7), mean=mean, positive=positive, normalise=False, min_std=0.2
    )
    features = torch.randn(5, 6)
    mixture = head(features)
    first, second, third = (layer for layer in head.trunk if isinstance(layer, torch.nn.Linear))
    hidden = third(second(first(features).relu()).relu())
    torch.testing.assert_close(head.project(features), hidden)
    hidden = hidden.relu()
    torch.testing.assert_close(mixture.log_weights.exp(), head.weights_of(hidden).softmax(dim=1))
    raw = head.deviations_of(hidden)
    grown = {"elu": torch.where(raw > 0, raw + 1, raw.exp()), "softplus": (1 + raw.exp()).log(), "exp": raw.exp()}
    expected = grown[positive].reshape(5, 3, -1) + 0.2
    found = mixture.log_std.exp()
    torch.testing.assert_close(found[..., None] if covariance == "isotropic" else found, expected)
    assert head.means_of.out_features == (12 if mean == "vector" else 3)
    means = head.means_of(hidden).reshape(5, 3, -1)
    torch.testing.assert_close(mixture.means, means.expand(5, 3, 4))
    assert mixture.means.shape == (5, 3, 4) and mixture.covariance == covariance


def test_deviations_never_fall_below_their_floor_and_never_overflow() -> None:
    for positive in ("elu", "softplus", "exp"):
        head = MixtureDensityHead(2, 2, 2, hidden=(), positive=positive, min_std=0.3)
        with torch.no_grad():
            head.deviations_of.weight.zero_()
            for value in (-1e6, 1e6):
                head.deviations_of.bias.fill_(value)
                std = head(torch.zeros(1, 2)).log_std.exp()
                assert std.isfinite().all() and float(std.min()) >= 0.3 * (1 - 1e-6)


def test_mixtures_stay_in_float32_under_autocast() -> None:
    head = MixtureDensityHead(8, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        mixture = head(torch.randn(2, 8))
    assert {tensor.dtype for tensor in mixture} == {torch.float32}
    sum(tensor.sum() for tensor in mixture).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_batches_are_selected_and_joined(draw) -> None:
    mixture = draw(1, 4, 2, 3)
    again = MixtureParameters.cat([mixture.select(slice(0, 1)), mixture.select(torch.tensor([1, 2, 3]))])
    assert all(torch.equal(a, b) for a, b in zip(mixture, again, strict=True))
    leaf = MixtureParameters(*(tensor.requires_grad_() for tensor in draw(1, 1, 1, 1)))
    assert not any(tensor.requires_grad for tensor in leaf.detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": 0}, "in_features must be a whole number >= 1, got 0"),
        ({"n_components": 0}, "n_components must be a whole number >= 1, got 0"),
        ({"dim": -1}, "dim must be a whole number >= 1, got -1"),
        ({"covariance": "full"}, "covariance must be isotropic or diagonal, got 'full'"),
        ({"hidden": (4, 0)}, r"hidden\[1\] must be a whole number >= 1, got 0"),
        ({"mean": "matrix"}, "mean must be vector or scalar, got 'matrix'"),
        ({"positive": "relu"}, "positive must be elu, softplus or exp, got 'relu'"),
        ({"min_std": 0.0}, "min_std must be a number > 0, got 0"),
        ({"min_std": math.inf}, "min_std must be a number > 0, got inf"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MixtureDensityHead(**{"in_features": 4, "n_components": 2, "dim": 3, **options})


def test_tensors_that_do_not_fit_are_refused() -> None:
    zeros = torch.zeros
    with pytest.raises(InputError, match=r"\(2, 3\), \(2, 3\), \(2, 3\)"):
        MixtureParameters(zeros(2, 3), zeros(2, 3), zeros(2, 3)).check()
    for shapes in (((2, 3), (2, 4, 5), (2, 4)), ((2, 3), (2, 3, 5), (2, 4)), ((2, 3), (2, 3, 5), (2, 3, 4))):
        with pytest.raises(InputError, match="log_weights, means, log_std have shapes"):
            MixtureParameters(*map(zeros, shapes)).check()
    with pytest.raises(InputError, match="floating-point"):
        MixtureParameters(zeros(2, 3).long(), zeros(2, 3, 4), zeros(2, 3)).check()
    with pytest.raises(InputError, match=r"points have shape \(2, 5\)"):
        MixtureParameters(zeros(2, 3), zeros(2, 3, 4), zeros(2, 3)).log_prob(zeros(2, 5))


def test_the_exponential_is_cut_at_its_largest_logarithm_and_the_floor_is_added() -> None:
    head = MixtureDensityHead(2, 1, 2, hidden=(), positive="exp", min_std=0.3)
    with torch.no_grad():
        head.deviations_of.weight.zero_()
        for raw, expected in ((3.0, math.exp(3) + 0.3), (9.0, math.exp(9) + 0.3), (20.0, math.exp(10) + 0.3)):
            head.deviations_of.bias.fill_(raw)
            assert float(head(torch.zeros(1, 2)).log_std.exp()) == pytest.approx(expected, rel=1e-5)


def test_the_default_trunk_is_that_of_the_papers_figure() -> None:
    head = MixtureDensityHead(16, 4, 128)
    assert [layer.out_features for layer in head.trunk if isinstance(layer, torch.nn.Linear)] == [2048, 128]
    assert (head.min_std, head.covariance, head.mean, head.positive) == (0.1, "isotropic", "vector", "elu")
