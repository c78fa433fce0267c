"""One step of a distillation: draw, compare, move the pixels. Nothing in it waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.shards import Shard
from attention_matching.images import keyed
from attention_matching.images.augment import N_RANDOM, SiameseAugmentation
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import class_members, select
from attention_matching.matching.losses import Loss, make_loss
from attention_matching.networks.base import FeatureNetwork
from attention_matching.networks.build import build
from attention_matching.networks.fresh import FreshNetworks

# On a CPU as many images go together as keep the largest activation below this: then a layer's
# memory is the one that the layer before gave back, still in the cache, and no new pages.
_CPU_BYTES = 8 * 2**20


class Step:
    """The state of a distillation on one device: its classes' pixels, their velocity, and all real images.

    Parameters
    ----------
    config
        The settings, resolved.
    data
        The images.
    shard
        Which classes, and on which device.
    preprocessing
        From pixels to inputs.
    loss
        What is compared; that of ``config.method`` by default.
    network
        One network of the family; the one of ``config`` by default.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: ImageSet,
        shard: Shard,
        preprocessing: Preprocessing,
        *,
        loss: Loss | None = None,
        network: FeatureNetwork | None = None,
    ) -> None:
        self.config, self.where = config, shard.where
        self._augment = SiameseAugmentation(config.augment or ())
        self._loss = loss or make_loss(
            config.method, config.power or 1, config.feature_weight or 0.0, config.loss_scale or 1.0
        )
        network = network or build(
            config.architecture,
            data.image_shape,
            data.n_classes,
            width=config.width,
            depth=config.depth,
            norm=config.norm or "instance",
        )
        self._layout = torch.channels_last if self._channels_last() else torch.contiguous_format
        self._at_once = self._images_at_once(network, data, len(shard.classes))
        network = network.to(self.where).to(memory_format=self._layout)
        self._networks = FreshNetworks(network)
        self._labels = torch.tensor(shard.classes, device=self.where)
        members = [class_members(data)[label] for label in shard.classes]
        self._warn_of_small_classes(data, shard, members)
        # The real images of this process, class after class, and where each class begins.
        self._real = preprocessing(data.train_images[np.concatenate(members)]).to(self.where)
        self._sizes = torch.tensor([len(m) for m in members], device=self.where)
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._largest = max(len(m) for m in members)
        purposes = ("batch", "augmentation", "network")
        self._keys = {purpose: keyed.key(config.seed, purpose, self.where) for purpose in purposes}
        self.images = self._initial(data, shard, preprocessing).to(self.where).requires_grad_(True)
        self.velocity = torch.zeros_like(self.images)
        # No bound method: a step that refers to itself would keep its images until the collector comes by.
        self._compute = torch.compile(_statistics) if config.compile else _statistics
        self._number = torch.zeros((), dtype=torch.int64, device=self.where)
        self._replay: Callable[[], Tensor] | None = None

    def __call__(self, number: int) -> Float[Tensor, " classes"]:
        """Move the pixels once.

        Parameters
        ----------
        number
            The step's number, from 0: what its draws are keyed by.

        Returns
        -------
        Tensor
            Each class's loss before the move, on the device: shape (classes of this process,).
        """
        self._number.fill_(number)
        if not self.config.cuda_graph:
            return self._move()
        if self._replay is None:
            self._replay = self._captured()
        return self._replay()

    def draw(
        self, number: Int[Tensor, ""]
    ) -> tuple[FeatureNetwork, Float[Tensor, "batch channels height width"], Float[Tensor, "classes random"]]:
        """Return what a step is made of: its network, its real images and its transforms.

        Parameters
        ----------
        number
            The step's number, on the device.

        Returns
        -------
        tuple
            The network; real inputs before augmentation, class after class, ``real_batch`` of
            each; and one row of random numbers per class for the augmentation.
        """
        keys = {purpose: keyed.fold(key, number) for purpose, key in self._keys.items()}
        network = self._networks.draw(keys["network"])
        of_class = keyed.fold(keys["batch"], self._labels)
        chosen = keyed.choose(of_class, self._sizes, self._largest, self.config.real_batch)
        rows = keyed.uniform(keyed.fold(keys["augmentation"], self._labels), N_RANDOM)
        return network, self._real[(chosen + self._starts[:, None]).flatten()], rows

    def _move(self) -> Tensor:
        network, real, rows = self.draw(self._number)
        with torch.no_grad():
            wanted = self._real_statistics(network, self._augment(real, rows))
        losses, gradients = [], []
        for classes in self._class_blocks():
            images = self.images[classes.start * self.config.ipc : classes.stop * self.config.ipc]
            block = slice(classes.start, classes.stop)
            found = self._statistics(network, self._augment(images, rows[block]), len(classes))
            loss = self._loss.compare(tuple(w[block] for w in wanted), found)
            # Each block's graph is freed before the next is built: memory for one block at a time.
            gradients.append(torch.autograd.grad(loss.sum(), images)[0])
            losses.append(loss.detach())
        with torch.no_grad():
            self.velocity.mul_(self.config.image_momentum).add_(torch.cat(gradients))
            self.images.sub_(self.velocity, alpha=self.config.image_lr or 1.0)
        return torch.cat(losses)

    def _statistics(self, network: FeatureNetwork, images: Tensor, n_classes: int) -> tuple[Tensor, ...]:
        images = images.contiguous(memory_format=self._layout)
        return self._compute(network, self._loss, images, n_classes, self.config.precision == "bfloat16")

    def _real_statistics(self, network: FeatureNetwork, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the class means of the real images in parts: whole classes together, or one class in pieces."""
        size = self.config.real_batch
        if self._at_once >= size:
            parts = images.split(self._at_once // size * size)
            found = [self._statistics(network, part, len(part) // size) for part in parts]
            return tuple(torch.cat(terms) for terms in zip(*found, strict=True))
        means = []
        for of_class in images.split(size):
            pieces = of_class.split(self._at_once)
            terms = zip(*(self._statistics(network, piece, 1) for piece in pieces), strict=True)
            means.append([torch.cat([m * len(p) for m, p in zip(t, pieces, strict=True)]).sum(0) / size for t in terms])
        return tuple(torch.stack(terms) for terms in zip(*means, strict=True))

    def _class_blocks(self) -> Iterator[range]:
        """Yield blocks of this process's classes whose synthetic images go together."""
        count, together = len(self._labels), max(1, self._at_once // self.config.ipc)
        for start in range(0, count, together):
            yield range(start, min(start + together, count))

    def _captured(self) -> Callable[[], Tensor]:
        """Record one step as a CUDA graph, which reads the step's number from the device."""
        before = self.images.detach().clone(), self.velocity.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # torch asks for a few ordinary runs first
            for _ in range(3):
                self._move()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._move()
        with torch.no_grad():
            self.images.copy_(before[0])
            self.velocity.copy_(before[1])

        def replay() -> Tensor:
            graph.replay()
            return losses.clone()

        return replay

    def _initial(self, data: ImageSet, shard: Shard, preprocessing: Preprocessing) -> Tensor:
        config = self.config
        first, last = shard.classes.start * config.ipc, shard.classes.stop * config.ipc
        if config.initial != "noise":
            return select(config.initial, data, config.ipc, config.seed, preprocessing).images[first:last].clone()
        keys = keyed.fold(keyed.key(config.seed, "noise"), torch.tensor(shard.classes))
        channels, height, width = data.image_shape
        drawn = keyed.uniform(keys, config.ipc * channels * height * width).clamp(min=2.0**-25)
        normal: Tensor = torch.special.ndtri(drawn)
        return normal.view(-1, channels, height, width)

    def _channels_last(self) -> bool:
        if self.config.channels_last is not None:
            return self.config.channels_last
        # On a CPU torch's group norm is slow in this order, and its batch norm is not.
        return self.config.norm == "batch" if self.where.type == "cpu" else self.config.precision == "bfloat16"

    def _images_at_once(self, network: FeatureNetwork, data: ImageSet, n_classes: int) -> int:
        config = self.config
        everything = n_classes * max(config.ipc, config.real_batch)
        if config.norm == "batch":
            if config.images_at_once is not None and config.images_at_once < everything:
                raise InputError(
                    f"images_at_once is {config.images_at_once} with batch normalisation",
                    f"{everything} or more, or another norm: batch statistics are those of all images",
                )
            return everything
        if config.images_at_once is not None:
            return config.images_at_once
        if self.where.type != "cpu":
            return everything
        with torch.no_grad():
            maps = network.features(torch.zeros(1, *data.image_shape)).maps
        return max(1, _CPU_BYTES // (4 * max(m.numel() for m in maps)))

    def _warn_of_small_classes(self, data: ImageSet, shard: Shard, members: list[np.ndarray]) -> None:
        size = self.config.real_batch
        few = [data.classes[k] for k, m in zip(shard.classes, members, strict=True) if len(m) < size]
        if few:
            warnings.warn(
                f"class {few[0]!r} has fewer images than real_batch = {size}: "
                f"{len(few)} of {len(members)} classes are sampled with replacement",
                stacklevel=4,
            )


def _statistics(network: FeatureNetwork, loss: Loss, images: Tensor, n_classes: int, half: bool) -> tuple[Tensor, ...]:
    """Compute what the loss compares: the part of a step that is worth compiling."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        features = network.features(images)
    return loss.statistics(features, n_classes)
