"""One step against the published loop's arithmetic, and against itself cut into other pieces."""

from __future__ import annotations

import gc
import importlib.util
import sys
import weakref
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from attention_matching import DistillConfig
from attention_matching.distillation.shards import Shard
from attention_matching.distillation.step import Step
from attention_matching.images import keyed
from attention_matching.images.preprocess import Preprocessing
from sextet_common import data
from sextet_common.errors import InputError
from sextet_common.processes import Processes


@pytest.fixture(scope="module")
def published() -> ModuleType:
    """The published loop, stated again in the benchmarks."""
    path = Path(__file__).parent.parent / "benchmarks" / "published.py"
    if not path.exists():
        pytest.skip("the benchmarks are not part of the source distribution")
    spec = importlib.util.spec_from_file_location("published", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["published"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def colours() -> data.ImageSet:
    draw = np.random.default_rng(0)
    labels = np.arange(160) % 4
    pixels = draw.random((160, 3, 16, 16), dtype=np.float32) * (0.4 + 0.2 * labels[:, None, None, None] / 4)
    return data.ImageSet.of(pixels, labels, pixels[:4], labels[:4])


def step_of(images: data.ImageSet, classes: range | None = None, **settings: object) -> Step:
    config = DistillConfig(**{"ipc": 3, "real_batch": 16, "width": 16, "depth": 3, **settings}).resolved(images)
    shard = Shard(images.n_classes, Processes(torch.device("cpu")))
    return Step([config], images, shard, Preprocessing.fit(images, config.whitening or "none"))


@pytest.mark.parametrize("method", ["datadam", "atom", "dm"])
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_the_loss_is_the_published_loops_given_its_network_and_batches(
    colours: data.ImageSet, published: ModuleType, method: str, preset: str
) -> None:
    step = step_of(colours, method=method, preset=preset, attention_weight=1.0)
    for number in range(8):  # every operation of the augmentation turns up
        before = step.sets[0].images.detach().clone()
        ours = step(number).sum()
        network, real, rows = step.draws(torch.tensor(number))
        parts = [
            torch.cat([published.augmented(x, step.augment, row) for x, row in zip(xs.chunk(4), rows, strict=True)])
            for xs in (real, before)
        ]
        if method == "dm":
            theirs = sum(
                (a.mean(0) - b.mean(0)).square().sum()
                for a, b in zip(*(network.features(x).embedding.chunk(4) for x in parts), strict=True)
            )
        else:
            power = step.sets[0].config.power
            theirs = published.loss(network, *parts, 4, power=power, channel=method == "atom")
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)


def test_the_pixels_move_by_sgd_with_momentum(colours: data.ImageSet) -> None:
    step = step_of(colours, image_lr=1.2, image_momentum=0.7, pixels="free")
    ours = step.sets[0]
    peer = ours.images.detach().clone().requires_grad_(True)
    optimizer = torch.optim.SGD([peer], lr=0.3, momentum=0.7)  # 1.2 * 768 / 3072
    for number in range(4):
        network, real, rows = step.draws(torch.tensor(number))
        statistics = [ours.loss.statistics(network.features(step.augment(x, rows)), 4) for x in (real, peer)]
        optimizer.zero_grad()
        ours.loss.compare(*statistics).sum().backward()
        optimizer.step()
        step(number)
        torch.testing.assert_close(ours.images.detach(), peer.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_valid_pixels_are_the_free_ones_of_the_step_clamped(colours: data.ImageSet, whitening: str) -> None:
    free, valid = (
        step_of(colours, pixels=pixels, whitening=whitening, image_lr=100.0, image_momentum=0.0, attention_weight=1.0)
        for pixels in ("free", "valid")
    )
    preprocessing = Preprocessing.fit(colours, whitening)
    for each in (free, valid):
        each(0)
    before, after = (preprocessing.invert(each.sets[0].images) for each in (free, valid))
    assert ((before < 0) | (before > 1)).mean() > 0.05
    np.testing.assert_allclose(after, before.clip(0, 1), rtol=0, atol=1e-4)


def test_valid_pixels_that_stay_in_range_are_not_touched(colours: data.ImageSet) -> None:
    free, valid = (step_of(colours, pixels=p, whitening="zca", image_lr=1e-6) for p in ("free", "valid"))
    for number in range(3):
        assert torch.equal(free(number), valid(number))
    assert torch.equal(free.sets[0].images, valid.sets[0].images)


def test_the_learning_rate_is_relative_to_the_squared_norm_of_the_inputs(colours: data.ImageSet) -> None:
    for whitening in ("none", "zca"):
        inputs = Preprocessing.fit(colours, whitening)(colours.train_images)
        norm = float(inputs.square().sum(dim=(1, 2, 3)).mean())
        assert step_of(colours, whitening=whitening, image_lr=0.5).sets[0].rate == pytest.approx(0.5 * norm / 3072)
    large = np.random.default_rng(0).random((64, 3, 40, 40), dtype=np.float32)
    images = data.ImageSet.of(large, np.arange(64) % 4, large[:4], np.arange(4))
    assert step_of(images, ipc=1, whitening="none", image_lr=0.5).sets[0].rate == 0.5  # as published from 32 pixels


def test_steps_of_one_draw_share_it(colours: data.ImageSet) -> None:
    shared = step_of(colours, steps_per_draw=2)
    losses = [shared(number) for number in range(4)]
    draws = []
    for number in (0, 1):
        network, real, rows = shared.draws(torch.tensor(number))
        draws.append((network.state_dict()["blocks.0.0.weight"].clone(), real.clone(), rows.clone()))
    peer = step_of(colours, steps_per_draw=2)
    seen = []
    for number in range(4):
        loss = peer(number)
        network, rows, _ = peer._target
        seen.append((network.state_dict()["blocks.0.0.weight"].clone(), rows.clone()))
        assert torch.equal(loss, losses[number])
    for number in range(4):
        assert torch.equal(seen[number][0], draws[number // 2][0]) and torch.equal(
            seen[number][1], draws[number // 2][2]
        )
    resumed = step_of(colours, steps_per_draw=2)  # from the state after step 2, in the middle of a draw
    for number in range(3):
        resumed(number)
    other = step_of(colours, steps_per_draw=2)
    with torch.no_grad():
        other.sets[0].images.copy_(resumed.sets[0].images)
        other.sets[0].velocity.copy_(resumed.sets[0].velocity)
    assert torch.equal(other(3), losses[3])


@pytest.mark.parametrize("method", ["datadam", "atom", "dm"])
@pytest.mark.parametrize("at_once", [1, 5, 16, 33])
def test_images_in_pieces_give_the_step_of_all_at_once(colours: data.ImageSet, method: str, at_once: int) -> None:
    whole, pieces = (step_of(colours, method=method, images_at_once=n) for n in (64, at_once))
    for number in range(3):
        torch.testing.assert_close(pieces(number), whole(number), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pieces.sets[0].images, whole.sets[0].images, rtol=1e-4, atol=1e-4)


def test_channels_last_is_the_same_step(colours: data.ImageSet) -> None:
    plain, last = step_of(colours), step_of(colours, channels_last=True)
    torch.testing.assert_close(last(0), plain(0), rtol=1e-4, atol=1e-6)


def test_bfloat16_comes_near_and_keeps_its_sums_in_float32(colours: data.ImageSet) -> None:
    plain, half = step_of(colours), step_of(colours, precision="bfloat16")
    losses = half(0), plain(0)
    assert losses[0].dtype == torch.float32
    torch.testing.assert_close(*losses, rtol=0.2, atol=0)  # eight bits of mantissa, in a difference of near means


def test_real_batches_are_distinct_images_of_the_class_and_change_with_the_step(colours: data.ImageSet) -> None:
    step = step_of(colours)
    inputs = step.draws(torch.tensor(0))[1], step.draws(torch.tensor(1))[1]
    everything = Preprocessing.fit(colours)(colours.train_images)
    for batch in inputs:
        nearest = [int((everything - image).abs().amax(dim=(1, 2, 3)).argmin()) for image in batch]
        assert colours.train_labels[nearest].tolist() == [k for k in range(4) for _ in range(16)]
        assert len(set(nearest)) == 64
    assert not torch.equal(*inputs)


def test_noise_is_standard_normal_and_of_its_class_alone(colours: data.ImageSet) -> None:
    images = step_of(colours, initial="noise").sets[0].images.detach()
    assert abs(images.mean()) < 0.05 and abs(images.std() - 1) < 0.05
    keys = keyed.fold(keyed.key(0, "noise"), torch.tensor([2]))
    drawn = keyed.uniform(keys, 3 * 3 * 16 * 16).clamp(min=2.0**-25)
    assert torch.equal(images[6:9], torch.special.ndtri(drawn).view(3, 3, 16, 16))


def test_a_user_defined_loss_and_network_are_used(colours: data.ImageSet) -> None:
    from attention_matching import ConvNet, DistributionMatchingLoss

    class Counted(DistributionMatchingLoss):
        calls = 0

        def compare(self, real, synthetic):
            Counted.calls += 1
            return super().compare(real, synthetic)

    config = DistillConfig(ipc=1, real_batch=4, width=16, depth=3).resolved(colours)
    shard = Shard(4, Processes(torch.device("cpu")))
    own = ConvNet((3, 16, 16), 4, width=5, depth=1)
    step = Step([config], colours, shard, Preprocessing.fit(colours), loss=Counted(scale=2.0), network=own)
    assert step(0).shape == (1, 4) and Counted.calls > 0 and step.draws(torch.tensor(0))[0] is own


def test_a_step_that_is_dropped_frees_its_images_at_once(colours: data.ImageSet) -> None:
    step = step_of(colours)
    step(0)
    images = weakref.ref(step.draws.real)
    gc.disable()
    try:
        del step
        assert images() is None
    finally:
        gc.enable()


def test_batch_norm_takes_all_images_at_once_or_none(colours: data.ImageSet) -> None:
    with pytest.raises(InputError, match="images_at_once must be >= 64 with batch normalisation, got 8"):
        step_of(colours, norm="batch", images_at_once=8)


def test_the_bottleneck_of_memory_decides_how_many_images_a_cpu_takes_at_once() -> None:
    pixels = np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32)
    images = data.ImageSet.of(pixels, np.arange(4), pixels, np.arange(4))
    with pytest.warns(UserWarning, match="fewer images"):
        step = step_of(images, ipc=1, width=128, whitening="none")
    assert step.batching.images_at_once == 8 * 2**20 // (128 * 32 * 32 * 4) == 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("option", [{}, {"compile": True}, {"cuda_graph": True}, {"channels_last": True}])
def test_a_gpu_takes_the_cpus_step(colours: data.ImageSet, option: dict[str, bool]) -> None:
    steps = []
    for device, chosen in (("cpu", {}), ("cuda", option)):
        config = DistillConfig(ipc=3, real_batch=16, width=16, depth=3, **chosen).resolved(colours)
        shard = Shard(4, Processes(torch.device(device)))
        steps.append(Step([config], colours, shard, Preprocessing.fit(colours)))
    for number in range(5):
        torch.testing.assert_close(steps[1](number).cpu(), steps[0](number), rtol=5e-3, atol=1e-5)
