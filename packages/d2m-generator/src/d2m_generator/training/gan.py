"""Pre-training of a GAN: hinge losses, and an average of the generator's weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from attention_matching import augmentation_for
from sextet_common.batch_norm import WholeBatchNorm
from sextet_common.data import ImageSet
from sextet_common.networks import device_of
from sextet_common.processes import Processes
from sextet_common.seeding import torch_generator
from torch import Tensor, nn
from torch.nn import functional

from d2m_generator.generators.gan import ConditionalGAN
from d2m_generator.generators.generator import ImageGenerator
from d2m_generator.training.config import PretrainConfig
from d2m_generator.training.job import PretrainJob

_BETAS = (0.0, 0.99)
_STATISTICS_BATCHES = 64  # batches from which the running statistics are computed at the end


class GANJob(PretrainJob):
    """Hinge losses for generator and discriminator (arXiv 1705.02894)."""

    may_grow = True

    def __init__(self, generator: ConditionalGAN, data: ImageSet, config: PretrainConfig, joined: Processes) -> None:
        super().__init__(generator, data, config, joined, generator)
        self.augment = augmentation_for(data.classes)
        self.discriminator = generator.discriminator(config.discriminator_width, config.seed).to(self.device).train()
        generator.train()
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), config.lr, _BETAS)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), config.discriminator_lr, _BETAS
        )
        self.modules = {"generator": generator, "discriminator": self.discriminator}
        self.optimizers = {"adam-g": self.generator_optimizer, "adam-d": self.discriminator_optimizer}

    def learn(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor]:
        """Update the discriminator, then the generator."""
        self.generator.train()
        for turn in range(self.config.discriminator_steps):
            noise, transforms = self._draws(number, turn)
            with torch.no_grad(), self._whole_batch():
                generated = self.generator(noise, labels)
            real_scores = self.discriminator(self._augmented(images, transforms[0]), labels)
            scores = self.discriminator(self._augmented(generated, transforms[1]), labels)
            discriminator_loss = functional.relu(1 - real_scores).mean() + functional.relu(1 + scores).mean()
            self.descend(self.discriminator_optimizer, discriminator_loss)
        noise, transforms = self._draws(number, self.config.discriminator_steps)
        with self._whole_batch():
            generated = self.generator(noise, labels)
        loss = -self.discriminator(self._augmented(generated, transforms[0]), labels).mean()
        self.descend(self.generator_optimizer, loss)
        self.average.update(self.generator)
        return {"generator": loss.detach(), "discriminator": discriminator_loss.detach()}

    def finish(self) -> None:
        """Use the averaged weights, and recompute the running statistics of the normalisations for them."""
        super().finish()
        renormalize(self.generator, self.seed, self.config.batch_size)

    def _whole_batch(self) -> AbstractContextManager[object]:
        """Return a context in which the generator normalises over the rows of all processes."""
        return WholeBatchNorm(self.processes) if self.processes.world > 1 else nullcontext()

    def _draws(self, number: int, turn: int) -> tuple[Tensor, Tensor]:
        """Return this process's rows of noise, and of the random numbers of two augmentations."""
        source = torch_generator(self.seed, "fake", number, turn)
        noise = torch.randn(self.config.batch_size, *self.generator.noise_shape, generator=source)[self.mine]
        transforms = torch.rand(2, self.config.batch_size, 4, generator=source)[:, self.mine]
        return noise.to(self.device), transforms.to(self.device)

    def _augmented(self, images: Tensor, transforms: Tensor) -> Tensor:
        # The transforms pad with zeros; shifting [-1, 1] to [0, 2] makes the padding black.
        return self.augment(images + 1, transforms) - 1 if self.config.augment else images


@torch.no_grad()
def renormalize(generator: ImageGenerator, seed: int, batch_size: int) -> None:
    """Compute the running statistics of the normalisations anew for the present weights."""
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    generator.train()
    device = device_of(generator)
    labels = torch.arange(batch_size, device=device) % generator.n_classes
    for number in range(_STATISTICS_BATCHES):
        source = torch_generator(seed, "standing", number)
        generator(torch.randn(batch_size, *generator.noise_shape, generator=source).to(device), labels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()
