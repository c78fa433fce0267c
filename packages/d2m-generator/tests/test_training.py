"""Schedules, averages and losses of the training, each against its formula."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from attention_matching import augmentation_for
from d2m_generator.generators.diffusion import DiffusionGenerator
from d2m_generator.generators.gan import ConditionalGAN
from d2m_generator.training.config import D2MConfig, PretrainConfig
from d2m_generator.training.diffusion import ConsistencyJob, DenoisingJob, job_for, pseudo_huber
from d2m_generator.training.distill import DistillationJob
from d2m_generator.training.ema import EMA
from d2m_generator.training.gan import GANJob
from d2m_generator.training.job import PretrainJob
from d2m_generator.training.pool import PoolConfig
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.processes import Processes
from sextet_common.seeding import torch_generator
from torch import nn

ALONE = Processes(torch.device("cpu"))
PRE = PretrainConfig(steps=50, batch_size=12, augment=False, device="cpu")


def data() -> ImageSet:
    images = np.random.default_rng(0).random((30, 1, 8, 8), dtype=np.float32)
    labels = np.arange(30) % 3
    return ImageSet.of(images, labels, images[:6], labels[:6], ("a", "b", "c"))


def gan_job() -> GANJob:
    return GANJob(ConditionalGAN(3, (1, 8, 8), width=4, noise=8), data(), PRE, ALONE)


def consistency_job(batch_size: int = 12) -> ConsistencyJob:
    config = dataclasses.replace(PRE, batch_size=batch_size)
    job = job_for(DiffusionGenerator.consistency(3, (1, 8, 8), width=8), data(), config, ALONE)
    assert isinstance(job, ConsistencyJob)
    return job


def test_an_average_forgets_the_initial_weights_by_its_warm_up_and_then_decays() -> None:
    layer = nn.Linear(1, 1, bias=False)

    def update(value: float) -> float:
        nn.init.constant_(layer.weight, value)
        average.update(layer)
        return float(average.weights["weight"])

    average = EMA(layer, 0.5)
    assert update(22.0) == 22.0  # update n keeps (n - 1) / (n + 9): nothing of the initial weights
    assert update(0.0) == pytest.approx(22 * 1 / 11)
    assert update(0.0) == pytest.approx(22 * 1 / 11 * 2 / 12)
    kept = 22 * 1 / 11 * 2 / 12
    for number in range(4, 12):
        kept *= (number - 1) / (number + 9)
        assert update(0.0) == pytest.approx(kept)
    assert update(0.0) == pytest.approx(kept * 0.5)  # 11 / 21 is more than the decay


def test_an_average_is_restored_and_copied_into_its_own_parameters_alone() -> None:
    layer = nn.Linear(2, 1)
    average, other = EMA(layer, 0.5, ["weight"]), EMA(layer, 0.5, ["weight"])
    nn.init.constant_(layer.weight, 3.0)
    average.update(layer)
    other.load_state(average.weights)
    nn.init.constant_(layer.weight, 1.0)
    nn.init.constant_(layer.bias, 5.0)
    other.copy_to(layer)
    assert layer.weight.tolist() == [[3.0, 3.0]] and layer.bias.tolist() == [5.0]
    some = {name: tensor for name, tensor in average.weights.items() if name != "updates"}
    for wrong in (some, {**average.weights, "bias": torch.zeros(1)}, {**average.weights, "weight": torch.zeros(1, 3)}):
        with pytest.raises(InputError, match=r"an average that differs in (updates|bias|weight); expected"):
            other.load_state(wrong)


def test_the_learning_rate_falls_by_half_a_cosine_to_a_tenth() -> None:
    pool = PoolConfig(networks=1, untrained=1.0, width=4, depth=1)
    config = D2MConfig(steps=10, lr=0.02, images=1, real_batch=2, pool=pool, device="cpu")
    generator = ConditionalGAN(3, (1, 8, 8), width=4, noise=8)
    job = DistillationJob(generator, data(), config, ALONE)
    for number in (0, 2, 5, 9):
        job.step(number)
        expected = 0.002 + 0.018 * math.cos(math.pi * number / 20) ** 2
        assert job.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 4, 4)])
def test_the_constant_of_the_consistency_loss_grows_with_the_root_of_the_size(shape: tuple[int, int, int]) -> None:
    size = math.prod(shape)
    constant = 0.00054 * math.sqrt(size)  # arXiv 2310.14189, section 3.3
    # sqrt(d^2 + c^2) - c is c at a distance of sqrt(3) c, and d - c at large ones.
    for distance, expected in ((math.sqrt(3) * constant, constant), (1e6, 1e6 - constant), (0.0, 0.0)):
        a = torch.full((2, *shape), distance / math.sqrt(size), dtype=torch.float64)
        assert pseudo_huber(a, torch.zeros_like(a)).tolist() == pytest.approx([expected] * 2, rel=1e-9, abs=1e-12)


def test_the_number_of_noise_levels_doubles_at_equal_intervals() -> None:
    job = consistency_job()
    assert [len(job.levels(number)) - 1 for number in (0, 9, 10, 20, 30, 40, 49)] == [10, 10, 20, 40, 80, 160, 160]
    levels = job.levels(0)
    assert float(levels[0]) == pytest.approx(0.002) and float(levels[-1]) == pytest.approx(80.0)
    roots = levels ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(10))


def test_the_consistency_loss_is_its_formula() -> None:
    job, x, labels = consistency_job(5), torch.rand(5, 1, 8, 8), torch.arange(5) % 3
    loss = job.loss(x, labels, 25, torch.Generator().manual_seed(3))
    draw, levels = torch.Generator().manual_seed(3), job.levels(25)
    log = torch.distributions.Normal(-1.1, 2.0).cdf(levels.log())  # log-normal noise levels
    index = torch.multinomial(log.diff(), 5, replacement=True, generator=draw)
    noise = torch.randn(x.shape, generator=draw)
    total = 0.0
    for i in range(5):
        low, high = (levels[index[i] + shift].float()[None] for shift in (0, 1))
        with torch.no_grad():
            a, b = (job.generator.consistent(x[i : i + 1] + s * noise[i], s, labels[i : i + 1]) for s in (low, high))
        c = 0.00054 * 8
        total += (math.sqrt(float((a - b).square().sum()) + c**2) - c) / float(high - low) / 5
    assert float(loss.detach()) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("target", ["epsilon", "sample", "v_prediction"])
def test_the_denoising_loss_is_what_the_scheduler_predicts(target: str) -> None:
    generator = DiffusionGenerator.denoising(3, (1, 8, 8), width=8)
    generator.scheduler.register_to_config(prediction_type=target)
    job = DenoisingJob(generator, data(), dataclasses.replace(PRE, batch_size=5), ALONE)
    x, labels = torch.rand(5, 1, 8, 8), torch.arange(5) % 3
    loss = job.loss(x, labels, 0, torch.Generator().manual_seed(3))
    draw = torch.Generator().manual_seed(3)
    times = torch.randint(1000, (5,), generator=draw)
    noise = torch.randn(x.shape, generator=draw)
    scheduler = generator.scheduler
    expected = {"epsilon": noise, "sample": x, "v_prediction": scheduler.get_velocity(x, noise, times)}[target]
    with torch.no_grad():
        output = generator.model(scheduler.add_noise(x, noise, times), times, class_labels=labels).sample
    assert float(loss.detach()) == pytest.approx(float((output - expected).square().mean()), rel=1e-4)


@pytest.mark.parametrize("make", [gan_job, consistency_job])
def test_a_step_of_pre_training_updates_every_network_and_returns_numbers(make: Callable[[], PretrainJob]) -> None:
    job = make()
    before = {name: {k: v.clone() for k, v in module.named_parameters()} for name, module in job.modules.items()}
    losses = job.step(0)
    assert losses and not any(loss.requires_grad for loss in losses.values())
    assert float(job.average.weights["updates"]) == 1
    for name, module in job.modules.items():
        assert any(not torch.equal(value, before[name][key]) for key, value in module.named_parameters()), name


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_share_of_the_labels_is_dropped(share: float) -> None:
    config = dataclasses.replace(PRE, label_dropout=share, batch_size=4000)
    job = DenoisingJob(DiffusionGenerator.denoising(3, (1, 8, 8), width=8), data(), config, ALONE)
    labels = job._dropped(torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    assert float((labels == 3).double().mean()) == pytest.approx(share, abs=0.03)  # four standard deviations
    assert set(labels.tolist()) <= {0, 3}


@pytest.mark.parametrize("bias", [-20.0, 0.0, 20.0])  # scores on both sides of both hinges
def test_the_gan_losses_are_hinge_losses(bias: float) -> None:
    job = gan_job()
    nn.init.constant_(job.discriminator.score.bias, bias)
    generator, discriminator = copy.deepcopy(job.generator), copy.deepcopy(job.discriminator)
    images, labels = torch.rand(12, 1, 8, 8) * 2 - 1, torch.arange(12) % 3
    losses = job.learn(images, labels, 4)
    noise = torch.randn(12, 8, generator=torch_generator(0, "fake", 4, 0))
    with torch.no_grad():
        real, fake = discriminator(images, labels), discriminator(generator(noise, labels), labels)
    expected = sum(max(0.0, 1 - float(score)) for score in real) + sum(max(0.0, 1 + float(score)) for score in fake)
    assert float(losses["discriminator"]) == pytest.approx(expected / 12, rel=1e-4)
    updated = copy.deepcopy(job.discriminator)  # after its update, before the generator's loss
    noise = torch.randn(12, 8, generator=torch_generator(0, "fake", 4, 1))
    with torch.no_grad():
        score = updated(generator(noise, labels), labels)
    assert float(losses["generator"]) == pytest.approx(-float(score.mean()), rel=0.05)  # one power iteration apart


def test_the_discriminator_follows_the_gradient_of_its_own_loss_alone() -> None:
    job, images, labels = gan_job(), torch.rand(12, 1, 8, 8) * 2 - 1, torch.arange(12) % 3
    job.learn(images, labels, 0)  # leaves gradients of the generator's loss in the discriminator
    job.generator.eval()
    generator, discriminator = copy.deepcopy(job.generator).train(), copy.deepcopy(job.discriminator)
    job.learn(images, labels, 1)
    assert job.generator.training
    noise = torch.randn(12, 8, generator=torch_generator(0, "fake", 1, 0))
    with torch.no_grad():
        fake = generator(noise, labels)
    real_scores, fake_scores = discriminator(images, labels), discriminator(fake, labels)
    loss = (1 - real_scores).clamp(min=0).mean() + (1 + fake_scores).clamp(min=0).mean()
    gradients = torch.autograd.grad(loss, list(discriminator.parameters()))
    for parameter, gradient in zip(job.discriminator.parameters(), gradients, strict=True):
        newest = job.discriminator_optimizer.state[parameter]["exp_avg"]  # beta_1 is 0: the newest gradient
        torch.testing.assert_close(newest, gradient, rtol=1e-3, atol=1e-6)


def test_what_an_augmentation_shifts_into_a_gan_s_images_is_black() -> None:
    job = GANJob(ConditionalGAN(3, (1, 8, 8), width=4, noise=8), data(), dataclasses.replace(PRE, augment=True), ALONE)
    job.augment = augmentation_for(data().classes, ("crop",))
    transforms = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    black, white = (job._augmented(torch.full((20, 1, 8, 8), value), transforms) for value in (-1.0, 1.0))
    assert black.unique().tolist() == [-1.0]
    assert white.unique().tolist() == [-1.0, 1.0]


def test_a_gan_s_running_statistics_are_the_mean_over_batches_and_its_momentum_is_kept() -> None:
    job = gan_job()
    job.step(0)
    job.finish()
    generator = job.generator
    assert not generator.training
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and {norm.momentum for norm in norms} == {0.1}
    statistics = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr,operator]
    inputs: list[list[torch.Tensor]] = [[] for _ in norms]
    for norm, seen in zip(norms, inputs, strict=True):
        norm.register_forward_pre_hook(lambda _, arguments, seen=seen: seen.append(arguments[0].detach()))  # type: ignore[misc]
    generator.train()
    labels = torch.arange(12) % 3
    for number in range(64):
        noise = torch.randn(12, 8, generator=torch_generator(0, "standing", number))
        generator(noise, labels)
    for (mean, variance), seen in zip(statistics, inputs, strict=True):
        torch.testing.assert_close(mean, torch.stack([x.mean(dim=(0, 2, 3)) for x in seen]).mean(dim=0))
        torch.testing.assert_close(variance, torch.stack([x.var(dim=(0, 2, 3)) for x in seen]).mean(dim=0))
