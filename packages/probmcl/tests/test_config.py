from __future__ import annotations

import math

import pytest
import torch
from probmcl import AsymmetricLoss, Augmentation, Config, ProbabilisticContrastiveLoss
from sextet_common.errors import InputError


def test_the_defaults_that_the_paper_gives_are_the_defaults() -> None:
    config = Config()
    assert (config.threshold, config.contrastive_weight) == (0.5, 0.3)
    assert ProbabilisticContrastiveLoss().temperature == 0.2
    assert 128 <= config.dim <= 256
    loss = config.classification_loss()
    assert (loss.gamma_positive, loss.gamma_negative, loss.margin) == (0, 4, 0.05)
    assert config.head(8, 5).n_components == 5


def test_the_parts_are_made_as_the_configuration_says() -> None:
    config = Config(
        similarity="cosine", per_dimension=False, temperature=0.7, threshold=0.3, measure="dice",
        positive_weight="overlap",
        contrastive_weight=2.0, n_components=3, covariance="diagonal", hidden=(9,), mean="scalar", min_std=0.5, dim=6,
        classifier_loss="bce",
    )  # fmt: skip
    loss = config.contrastive_loss()
    term = loss.contrastive
    assert (loss.weight, term.similarity, term.temperature, term.threshold) == (2, "cosine", 0.7, 0.3)
    assert (term.measure, term.weight, term.per_dimension) == ("dice", "overlap", False)
    head = config.head(4, 10)
    assert (head.n_components, head.dim, head.covariance, head.mean, head.min_std) == (3, 6, "diagonal", "scalar", 0.5)
    logits, labels = torch.randn(3, 4), torch.eye(3, 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / 3
    torch.testing.assert_close(config.classification_loss()(logits, labels), expected)
    assert isinstance(Config(method="bce").classification_loss(), AsymmetricLoss)


def test_a_configuration_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    Config()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": 0.0}, "lr is 0"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"method": "simclr"}, "method is 'simclr'; expected: probmcl, supcon, asymmetric, bce"),
        ({"classifier_loss": "hinge"}, "classifier_loss is 'hinge'"),
        ({"threshold": 0.0}, r"the threshold of overlap is 0.0; expected: a number in \(0, 1\]"),
        ({"temperature": -1.0}, "the temperature is -1"),
        ({"supcon_temperature": 0.0}, "the temperature is 0"),
        ({"similarity": "cosine"}, "per_dimension with the similarity cosine"),
        ({"covariance": "full"}, "covariance is 'full'"),
        ({"margin": 1.0}, "margin is 1"),
        ({"contrastive_weight": -1.0}, "the weight of the contrastive term is -1"),
        ({"fine_tune": True, "method": "bce"}, "fine_tune with the method bce"),
        ({"label_aware": "any", "n_components": 3}, "label_aware with n_components 3"),
    ],
)
def test_what_is_outside_is_refused_before_anything_runs(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config(**options)
    with pytest.raises(InputError, match="the augmentation's shift"):
        Config(augmentation=Augmentation(shift=2))
