from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch
from probmcl import (
    AsymmetricLoss,
    Augmentation,
    ClassificationConfig,
    Config,
    ContrastiveConfig,
    HeadConfig,
)
from sextet_common.errors import InputError


def test_the_defaults_that_the_paper_gives_are_the_defaults() -> None:
    config = Config()
    assert (config.contrastive.threshold, config.contrastive.contrastive_weight) == (0.5, 0.3)
    assert 128 <= config.head.dim <= 256
    loss = config.classification_loss()
    assert (loss.gamma_positive, loss.gamma_negative, loss.margin) == (0, 4, 0.05)
    assert config.head.build(8, 5).n_components == 5


def test_the_parts_are_built_as_the_configuration_says() -> None:
    config = Config(
        head=HeadConfig(dim=6, n_components=3, covariance="diagonal", hidden=(9,), mean="scalar", min_std=0.5),
        contrastive=ContrastiveConfig(
            similarity="cosine", per_dimension=False, temperature=0.7, supcon_temperature=0.6, threshold=0.3,
            measure="dice", positive_weight="overlap", contrastive_weight=2.0,
        ),
        classification=ClassificationConfig(classifier_loss="bce"),
    )  # fmt: skip
    loss = config.contrastive.probmcl_loss()
    term = loss.contrastive
    assert (loss.weight, term.similarity, term.temperature, term.threshold) == (2, "cosine", 0.7, 0.3)
    assert (term.measure, term.weight, term.per_dimension) == ("dice", "overlap", False)
    term = config.contrastive.supcon_loss()
    assert (term.temperature, term.threshold, term.measure, term.weight) == (0.6, 0.3, "dice", "overlap")
    aware = ContrastiveConfig(label_aware="each", likelihood_weight=1.0).probmcl_loss().likelihood
    assert aware.label_aware == "each" and aware.per_dimension
    head = config.head.build(4, 10)
    assert (head.n_components, head.dim, head.covariance, head.mean, head.min_std) == (3, 6, "diagonal", "scalar", 0.5)
    assert head.trunk[0].out_features == 9
    logits, labels = torch.randn(3, 4), torch.eye(3, 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / 3
    torch.testing.assert_close(config.classification_loss()(logits, labels), expected)
    torch.testing.assert_close(Config(method="bce").classification_loss()(logits, labels), expected)
    loss = Config(classification=ClassificationConfig("asymmetric", 1.0, 2.0, 0.2)).classification_loss()
    assert (loss.gamma_positive, loss.gamma_negative, loss.margin) == (1, 2, 0.2)
    assert isinstance(Config(method="asymmetric").classification_loss(), AsymmetricLoss)


def test_flat_names_and_sections_are_two_forms_of_the_same_settings() -> None:
    nested = Config(
        epochs=5, head=HeadConfig(dim=7), contrastive=ContrastiveConfig(temperature=0.3), augmentation=Augmentation(0.2)
    )
    assert Config.flat(epochs=5, dim=7, temperature=0.3, augmentation=Augmentation(0.2)) == nested
    flat = nested.as_flat()
    assert (flat["dim"], flat["temperature"], flat["augmentation"]["shift"]) == (7, 0.3, 0.2)
    names = [field.name for kind in (HeadConfig, ContrastiveConfig, ClassificationConfig, Config)
             for field in dataclasses.fields(kind)]  # fmt: skip
    assert len(set(names)) == len(names)  # on the command line they stand beside each other
    assert flat.keys() == set(names) - {"head", "contrastive", "classification"}


def test_flat_names_in_the_constructor_still_work_and_warn() -> None:
    with pytest.warns(DeprecationWarning, match=r"use Config\(head=HeadConfig\(dim=...\)\) or Config.flat\(dim=...\)"):
        config = Config(epochs=5, dim=7, threshold=0.3)
    assert config == Config(epochs=5, head=HeadConfig(dim=7), contrastive=ContrastiveConfig(threshold=0.3))
    with pytest.warns(DeprecationWarning, match="use Config.head.dim"):
        assert config.dim == 7
    with pytest.raises(AttributeError, match="no attribute 'dims'"):
        config.dims  # noqa: B018  # reading it is the test
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataclasses.replace(config, epochs=6).head.dim == Config.flat(dim=7).head.dim


def test_a_configuration_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    Config()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"lr": 0.0}, "lr must be a number > 0, got 0"),
        ({"weight_decay": math.inf}, "weight_decay must be a number >= 0, got inf"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"method": "simclr"}, "method must be probmcl, supcon, asymmetric or bce, got 'simclr'"),
        ({"classifier_loss": "hinge"}, "classifier_loss must be asymmetric or bce, got 'hinge'"),
        ({"threshold": 0.0}, r"threshold must be a number in \(0, 1\], got 0.0"),
        ({"temperature": -1.0}, "temperature must be a number > 0, got -1"),
        ({"supcon_temperature": 0.0}, "supcon_temperature must be a number > 0, got 0"),
        ({"similarity": "label", "n_components": 3}, "the similarity label with n_components 3"),
        ({"covariance": "full"}, "covariance must be isotropic or diagonal, got 'full'"),
        ({"margin": 1.0}, r"margin must be a number in \[0, 1\), got 1"),
        ({"contrastive_weight": -1.0}, "contrastive_weight must be a number >= 0, got -1"),
        ({"fine_tune": True, "method": "bce"}, "fine_tune with the method bce"),
        ({"mode": "whole"}, "mode must be joint, two_stage or auto, got 'whole'"),
        ({"mode": "two_stage", "method": "bce"}, "mode two_stage with the method bce"),
        ({"fine_tune": True, "mode": "joint"}, "fine_tune with the mode joint"),
        ({"likelihood_weight": -1.0}, "likelihood_weight must be a number >= 0, got -1"),
        ({"likelihood_weight": 0.0, "label_aware": "any"}, "label_aware any with likelihood_weight 0"),
        (
            {"mode": "two_stage", "likelihood_weight": 0.0, "contrastive_weight": 0.0},
            "contrastive_weight and likelihood_weight are 0 in two_stage",
        ),
        ({"label_aware": "any", "likelihood_weight": 1.0, "n_components": 3}, "label_aware with n_components 3"),
    ],
)
def test_settings_outside_their_bounds_are_refused_before_anything_runs(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Config.flat(**options)
    with pytest.raises(InputError, match=r"shift must be a number in \[0, 1\], got 2"):
        Config(augmentation=Augmentation(shift=2))
