"""A generator for other classes, sizes or channels than its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from sextet_common import checks, files
from sextet_common.errors import STRUCTURE, InputError, reading
from torch import Tensor, nn
from torch.nn import functional

from d2m_generator.generators.generator import Groups, ImageGenerator, Images, Labels, Noise

FILE = "adapted.json"
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL converts to grey


class AdaptedGenerator(ImageGenerator):
    """Images of some classes of a generator, resized and with the channels of the data; all of it differentiable.

    Parameters
    ----------
    class_ids
        The generator's class for each class of the data, distinct; all of them in their order by default.
    image_shape
        Channels, height and width; those of the generator by default. Sizes change by antialiased bilinear
        interpolation, three channels to one by their luma, one to three by repetition.

    Examples
    --------
    >>> from d2m_generator import ConditionalGAN
    >>> digits = AdaptedGenerator(ConditionalGAN(10, (1, 8, 8), width=4), class_ids=(3, 7), image_shape=(3, 12, 12))
    >>> digits.n_classes, digits.sample(torch.tensor([1]), seed=0).shape
    (2, torch.Size([1, 3, 12, 12]))
    """

    def __init__(
        self,
        generator: ImageGenerator,
        *,
        class_ids: Sequence[int] = (),
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        ids = tuple(class_ids) or tuple(range(generator.n_classes))
        for number in ids:
            checks.check("a class_id", number, checks.Natural)
        if max(ids) >= generator.n_classes or len(set(ids)) < len(ids):
            given = f"class_ids {', '.join(map(str, ids[:10]))}{' ...' if len(ids) > 10 else ''}"
            raise InputError(given, f"distinct numbers from 0 to {generator.n_classes - 1}")
        self.generator, self.class_ids, self.n_classes = generator, ids, len(ids)
        self.image_shape = generator.image_shape if image_shape is None else image_shape
        for size in self.image_shape:
            checks.check("a size of image_shape", size, checks.Count)
        channels = generator.image_shape[0], self.image_shape[0]
        if channels[0] != channels[1] and channels not in ((3, 1), (1, 3)):
            raise InputError(f"images of {channels[0]} channels for {channels[1]}", "equal numbers, or 1 and 3")
        self.noise_shape = generator.noise_shape
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> AdaptedGenerator:
        """Set the mode of the generator, which may stay in evaluation mode."""
        super().train(mode)
        self.generator.train(mode)
        return self

    def forward(self, noise: Noise, labels: Labels) -> Images:
        """Generate images, pixels in about [-1, 1]."""
        return self._fitted(self.generator(noise, self._own(labels)))

    def groups(self) -> Groups:
        """Return the groups of the generator."""

        def inside(holds: Callable[[str], bool]) -> Callable[[str], bool]:
            return lambda name: holds(name.removeprefix("generator."))

        return {group: inside(holds) for group, holds in self.generator.groups().items()}

    def latent_layers(self) -> tuple[str, ...]:
        """Return those of the generator."""
        return self.generator.latent_layers()

    def latents(self, noise: Noise, labels: Labels, layer: str = "noise") -> dict[str, Tensor]:
        """Return the latents of the generator."""
        return self.generator.latents(noise, self._own(labels), layer)

    def decode(self, latents: Mapping[str, Tensor], labels: Labels) -> Images:
        """Generate images from the generator's latents, pixels in about [-1, 1]."""
        return self._fitted(self.generator.decode(latents, self._own(labels)))

    def save_settings(self, folder: Path) -> None:
        """Write adapted.json."""
        settings = {"class_ids": list(self.class_ids), "image_shape": list(self.image_shape)}
        files.write_text(folder / FILE, json.dumps(settings) + "\n")

    @classmethod
    def with_settings(cls, generator: ImageGenerator, path: str | os.PathLike[str]) -> AdaptedGenerator:
        """Adapt a generator by the settings in a file."""
        with reading(path, "the settings of an adapted generator", *STRUCTURE):
            table = json.loads(Path(path).read_text(encoding="utf-8"))
            ids = [int(number) for number in table["class_ids"]]
            channels, height, width = (int(size) for size in table["image_shape"])
            return cls(generator, class_ids=ids, image_shape=(channels, height, width))

    def _own(self, labels: Labels) -> Labels:
        ids: Tensor = self.get_buffer("ids")
        return ids[labels]

    def _fitted(self, images: Images) -> Images:
        """Return images with the channels and size of the data."""
        channels, *size = self.image_shape
        if images.shape[1] == 3 and channels == 1:
            images = (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
        elif images.shape[1] == 1 and channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if list(images.shape[2:]) == size:
            return images
        return functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def unadapted(generator: nn.Module) -> nn.Module:
    """Return the generator inside an adapted one, or the generator itself."""
    return unadapted(generator.generator) if isinstance(generator, AdaptedGenerator) else generator
