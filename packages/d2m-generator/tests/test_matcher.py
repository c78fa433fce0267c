from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from attention_matching import Preprocessing
from d2m_generator import D2MConfig, PoolConfig
from d2m_generator.training.matcher import Matcher
from sextet_common.data import ImageSet
from sextet_common.processes import Processes

CONFIG = D2MConfig(
    real_batch=5, steps_per_draw=3, pool=PoolConfig(networks=2, untrained=1.0, width=4, refresh_every=1), device="cpu"
)


def matcher(**words: object) -> Matcher:
    random = np.random.default_rng(0)
    images, labels = random.random((40, 1, 8, 8), dtype=np.float32), np.arange(40) % 4
    data = ImageSet.of(images, labels, images, labels, tuple("abcd"))
    config = dataclasses.replace(CONFIG, **words)  # type: ignore[arg-type]
    return Matcher(config, data, Preprocessing.fit(data), Processes(torch.device("cpu")))


def generated(classes: int) -> torch.Tensor:
    return torch.rand(2 * classes, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_steps_share_a_draw_and_its_real_images_pass_through_the_network_once() -> None:
    one, passes = matcher(), []
    target = one._target
    one._target = lambda *words: passes.append(1) or target(*words)  # type: ignore[method-assign, func-returns-value]
    losses = [one.losses(number, np.arange(4), generated(4)) for number in range(6)]
    assert all(torch.equal(losses[0], other) for other in losses[1:3]) and len(passes) == 2
    assert not torch.equal(losses[0], losses[3]) and torch.equal(losses[3], losses[5])
    torch.testing.assert_close(losses[3], matcher().losses(4, np.arange(4), generated(4)), rtol=0, atol=0)  # resumed


def test_classes_in_turn_have_a_draw_for_each_part_of_a_block() -> None:
    some = matcher(classes=2, steps_per_draw=2)
    parts = [some.classes(number).tolist() for number in range(8)]
    assert parts[:2] == parts[2:4] and parts[4:6] == parts[6:8]
    assert sorted(parts[0] + parts[1]) == sorted(parts[4] + parts[5]) == [0, 1, 2, 3]
    losses = [some.losses(number, np.array(parts[number]), generated(2)) for number in range(8)]
    assert torch.equal(losses[0], losses[2]) and torch.equal(losses[1], losses[3])
    assert not torch.equal(losses[0], losses[4])


@pytest.mark.parametrize("accumulate", [2, 9])
def test_parts_of_a_step_cover_its_classes(accumulate: int) -> None:
    parts: list[np.ndarray] = []

    def generate(classes: np.ndarray) -> torch.Tensor:
        parts.append(classes)
        return generated(len(classes)).requires_grad_()

    matcher(accumulate=accumulate).backward(0, generate)
    assert len(parts) == min(accumulate, 4) and np.concatenate(parts).tolist() == [0, 1, 2, 3]
