"""The draws and losses of a step, which distillation into weights and into latents share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from attention_matching import FeatureNetwork, Preprocessing, augmentation_for
from sextet_common import data as image_data, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from sextet_common.processes import Processes
from torch import Tensor

from d2m_generator.training.config import MatchConfig
from d2m_generator.training.matching import Statistics
from d2m_generator.training.pool import Pool


class Matcher:
    """Real images, networks and augmentations of every step, and the loss of generated images.

    All draws are keyed by (seed, draw, class). `steps_per_draw` steps share a draw, whose real images pass through the
    network once. Several processes divide the classes of a step among them.
    """

    def __init__(self, config: MatchConfig, data: ImageSet, preprocessing: Preprocessing, processes: Processes) -> None:
        if preprocessing.zca is not None:
            raise InputError("ZCA whitening", "mean and std, through which the gradients of generated images pass")
        if config.classes is not None and config.classes > data.n_classes:
            raise InputError(f"classes must be at most {data.n_classes}, as in the data, got {config.classes}")
        self._turns = -(-data.n_classes // (config.classes or data.n_classes))
        if processes.world > data.n_classes // self._turns:
            given = f"{processes.world} processes for steps of {data.n_classes // self._turns} classes"
            raise InputError(given, "at most one process per class of a step")
        self.config, self.data, self.preprocessing = config, data, preprocessing
        self.processes, self.device = processes, processes.device
        self.augment = augmentation_for(data.classes, None if config.augment else ())
        self.pool = Pool(config.pool, data, preprocessing, augmentation_for(data.classes), config.seed, self.device)
        self.mean, self.std = (t.view(-1, 1, 1).to(self.device) for t in (preprocessing.mean, preprocessing.std))
        self.members = [np.flatnonzero(data.train_labels == label) for label in range(data.n_classes)]
        self._real: dict[tuple[int, ...], tuple[FeatureNetwork, Statistics, Tensor]] = {}
        self._block = -1

    def classes(self, number: int) -> np.ndarray:
        """Return the classes of a step."""
        classes = np.arange(self.data.n_classes)
        if self._turns == 1:
            return classes
        order = seeding.generator(self.config.seed, "classes", self._block_of(number)).permutation(classes)
        return np.sort(np.array_split(order, self._turns)[number % self._turns])

    def backward(self, number: int, generate: Callable[[np.ndarray], Tensor]) -> Tensor:
        """Add the gradients of a step's mean loss, of this process's classes, and return the loss of all.

        ``generate`` returns pixels of some classes, ordered by class.
        """
        classes, total = self.classes(number), torch.zeros((), device=self.device)
        share = self.processes.shares(len(classes))[self.processes.rank]
        mine = classes[share.start : share.stop]
        for part in np.array_split(mine, min(self.config.accumulate, len(mine))):
            loss = self.losses(number, part, generate(part)).sum() / len(classes)
            loss.backward()
            total += loss.detach()
        return self.processes.sum(total)

    def losses(self, number: int, classes: np.ndarray, generated: Tensor) -> Tensor:
        """Return the loss of each of some classes for generated pixels, ordered by class."""
        block, key = self._block_of(number), tuple(classes.tolist())
        if block != self._block:
            self._real, self._block = {}, block
        if key not in self._real:
            draw = block * self._turns + number % self._turns
            network = self.pool.draw(draw)
            self._real[key] = (network, *self._target(network, draw, classes))
        network, target, transforms = self._real[key]
        inputs = self.augment((generated.float() - self.mean) / self.std, transforms)
        return self.config.loss.compare(target, self.config.loss.statistics(network, inputs, len(classes)))

    def _block_of(self, number: int) -> int:
        """Return the number of the block of steps that a step belongs to: each part of the classes has one draw."""
        return number // (self._turns * self.config.steps_per_draw)

    @torch.no_grad()
    def _target(self, network: FeatureNetwork, draw: int, classes: np.ndarray) -> tuple[Statistics, Tensor]:
        """Return the statistics of the real images of some classes, and the augmentation of each class."""
        rows, transforms, count = [], [], self.config.real_batch
        for label in classes.tolist():
            members = self.members[label]
            random = seeding.generator(self.config.seed, "class", draw, label)
            rows.append(random.choice(members, count, replace=len(members) < count))
            source = seeding.torch_generator(self.config.seed, "augmentation", draw, label)
            transforms.append(torch.rand(1, 4, generator=source))
        pixels = torch.from_numpy(image_data.take(self.data.train_images, np.concatenate(rows)))
        each = torch.cat(transforms).to(self.device)
        inputs = self.augment(self.preprocessing(pixels.to(self.device)), each)
        return self.config.loss.statistics(network, inputs, len(classes)), each
