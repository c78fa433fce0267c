"""The settings: the presets, what the images choose, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from attention_matching import DistillConfig
from sextet_common import data
from sextet_common.errors import InputError


def images(side: int, channels: int = 3) -> data.ImageSet:
    pixels = np.zeros((2, channels, side, side), dtype=np.float32)
    return data.ImageSet.of(pixels, np.array([0, 1]), pixels[:1], np.array([1]))


def test_the_presets_are_the_papers_table_and_the_published_codes_defaults() -> None:
    paper, official = (DistillConfig(preset=name).resolved(images(32)) for name in ("paper", "official"))
    assert (paper.power, paper.norm, paper.steps, paper.whitening) == (4, "instance", 8000, "zca")
    assert (official.power, official.norm, official.steps, official.whitening) == (1, "batch", 20000, "none")
    for config in (paper, official):
        assert (config.loss_scale, config.image_lr, config.image_momentum, config.real_batch) == (100.0, 1.0, 0.5, 64)
        assert (config.width, config.depth, config.feature_weight, config.attention_weight) == (128, 3, 0.01, 1)


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_dm_has_its_own_scale_and_else_the_presets_settings(preset: str) -> None:
    dm, datadam = (DistillConfig(preset=preset, method=m).resolved(images(32)) for m in ("dm", "datadam"))
    assert dm.loss_scale == 1 == datadam.loss_scale * datadam.feature_weight  # its term weighs the same in both
    assert (dm.norm, dm.steps, dm.whitening) == (datadam.norm, datadam.steps, datadam.whitening)


def test_settings_left_open_are_chosen_by_the_images_and_the_others_kept() -> None:
    chosen = DistillConfig(width=8).resolved(data.load("digits"))
    assert (chosen.steps, chosen.width, chosen.depth, chosen.image_lr) == (600, 8, 2, 1.0)
    assert chosen.whitening == "none" and "flip" not in chosen.augment
    chosen = DistillConfig(ipc=100).resolved(images(64))
    assert (chosen.steps, chosen.width, chosen.depth, chosen.whitening) == (8000, 128, 4, "none")
    assert (chosen.image_lr, chosen.feature_weight, chosen.attention_weight) == (10.0, 0.02, 1.0)
    chosen = DistillConfig(preset="official", power=2, norm="group", steps=5).resolved(images(32))
    assert (chosen.power, chosen.norm, chosen.steps) == (2, "group", 5)
    chosen = DistillConfig(architecture="vgg11").resolved(images(32))
    assert (chosen.width, chosen.attention_weight) == (None, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ipc", 0),
        ("steps", 0),
        ("power", 0),
        ("images_at_once", 0),
        ("image_lr", 0.0),
        ("image_lr", float("nan")),
        ("image_momentum", -1.0),
        ("seed", -1),
        ("width", -4),
        ("preset", "best"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: float | str) -> None:
    with pytest.raises(InputError, match=f"{name} must be .*, got '?{value}"):
        DistillConfig(**{name: value})
