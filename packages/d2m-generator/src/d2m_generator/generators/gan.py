"""A small class-conditional GAN that trains on two cores, for users without a pre-trained generator."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sextet_common import checkpoint, checks, hub
from sextet_common.errors import InputError, reading
from sextet_common.seeding import torch_seed
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from d2m_generator.generators.generator import Groups, ImageGenerator, Images, Labels, Noise, check_layer

FILE = "generator.safetensors"
_KIND = "conditional gan"


class ConditionalGAN(ImageGenerator):
    """Residual generator with class-conditional batch normalisation.

    The scale and shift of every normalisation are linear in the class embedding and the noise. In evaluation mode,
    which `D2M` and `synthesize` use, normalisations use their running statistics, so that an image does not depend on
    the rest of its batch.

    Parameters
    ----------
    image_shape
        Channels, height and width; sides from 8 to 128 that are 4 to 7 times a power of two.
    width
        Channels of the last block; earlier blocks have up to four times as many.
    noise, embedding
        Lengths of the noise vector and of a class embedding.

    References
    ----------
    cGANs with projection discriminator, arXiv 1802.05637; BigGAN, arXiv 1809.11096, for noise in every normalisation.

    Examples
    --------
    >>> gan = ConditionalGAN(10, (1, 8, 8), width=8)
    >>> gan.sample(torch.tensor([3, 4]), seed=0).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        n_classes: int,
        image_shape: tuple[int, int, int],
        *,
        width: int = 32,
        noise: int = 64,
        embedding: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("n_classes", n_classes), ("width", width), ("noise", noise), ("embedding", embedding)):
            checks.check(name, value, checks.Count)
        self.n_classes, self.image_shape, self.noise_shape = n_classes, image_shape, (noise,)
        self.settings = {"n_classes": n_classes, "image_shape": list(image_shape), "width": width, "noise": noise,
                         "embedding": embedding}  # fmt: skip
        blocks, base = halvings(image_shape)
        channels = [width * min(4, 2 ** (blocks - number)) for number in range(blocks + 1)]
        with torch_seed(seed, "conditional gan"):
            self.embedding = nn.Embedding(n_classes, embedding)
            self.start = nn.Linear(noise + embedding, channels[0] * base[0] * base[1])
            self.blocks = nn.ModuleList(
                _Up(before, after, noise + embedding) for before, after in itertools.pairwise(channels)
            )
            self.norm = nn.BatchNorm2d(channels[-1])
            self.paint = nn.Conv2d(channels[-1], image_shape[0], 3, padding=1)
        self._base, self._width = base, width
        self.eval()

    def forward(self, noise: Noise, labels: Labels) -> Images:
        """Generate images, pixels in (-1, 1)."""
        return self.decode({"noise": noise}, labels)

    def latent_layers(self) -> tuple[str, ...]:
        """Return noise, condition (noise and class embedding), and block-L: condition and block L's input."""
        return ("noise", "condition", *(f"block-{number}" for number in range(len(self.blocks))))

    def latents(self, noise: Noise, labels: Labels, layer: str = "noise") -> dict[str, Tensor]:
        """Return the latents of images: noise, condition, or condition and block-L."""
        check_layer(self, layer)
        if layer == "noise":
            return {"noise": noise}
        condition = torch.cat([noise, self.embedding(labels)], dim=1)
        if layer == "condition":
            return {"condition": condition}
        x = self.start(condition).view(len(noise), -1, *self._base)
        for block in self.blocks[: int(layer.removeprefix("block-"))]:
            x = block(x, condition)
        return {"condition": condition, layer: x}

    def decode(self, latents: Mapping[str, Tensor], labels: Labels) -> Images:
        """Generate images from latents of any layer, pixels in (-1, 1)."""
        if "noise" in latents:
            condition = torch.cat([latents["noise"], self.embedding(labels)], dim=1)
        else:
            condition = latents["condition"]
        deep = [name for name in latents if name.startswith("block-")]
        first = int(deep[0].removeprefix("block-")) if deep else 0
        x = latents[deep[0]] if deep else self.start(condition).view(len(condition), -1, *self._base)
        for block in self.blocks[first:]:
            x = block(x, condition)
        images: Tensor = torch.tanh(self.paint(functional.relu(self.norm(x))))
        return images

    def groups(self) -> Groups:
        """Return the groups "last" (the last block and the output layers) and "classes" (what labels enter by)."""
        last = f"blocks.{len(self.blocks) - 1}."
        return {
            "last": lambda name: name.startswith((last, "norm.", "paint.")),
            "classes": lambda name: name.startswith("embedding.") or ".condition." in name,
        }

    def discriminator(self, width: int | None = None, seed: int = 0) -> Discriminator:
        """Return an untrained discriminator for these images.

        By default it is twice as wide as the generator, at least 64: with spectral normalisation a narrow
        discriminator cannot separate real from generated images, and the generator collapses to one image per class.
        """
        with torch_seed(seed, "discriminator"):
            return Discriminator(self.n_classes, self.image_shape, width or max(64, 2 * self._width))

    def save(self, path: str | os.PathLike[str], meta: dict[str, Any] | None = None) -> None:
        """Save as one safetensors file, atomically; `meta` is stored beside the settings."""
        state = {name: tensor.cpu() for name, tensor in self.state_dict().items()}
        checkpoint.save(path, state, {"kind": _KIND, "settings": self.settings, "meta": meta or {}})

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> ConditionalGAN:
        """Load the generator of a folder with generator.safetensors, or of OWNER/NAME on the Hugging Face Hub."""
        return cls.load(hub.local_folder(name_or_path, revision=revision, only=[FILE]) / FILE)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConditionalGAN:
        """Load a saved generator; a file of another architecture is refused with the keys that differ."""
        loaded = checkpoint.load(path, "torch")
        if loaded.meta.get("kind") != _KIND:
            raise InputError(f"{path} is a checkpoint of {loaded.meta.get('kind', 'something else')}", f"a {_KIND}")
        with reading(path, f"a {_KIND} and its settings", KeyError, TypeError, RuntimeError):
            settings = dict(loaded.meta["settings"])
            settings["image_shape"] = tuple(settings["image_shape"])
            with torch.device("meta"):  # allocates nothing: the settings may claim any size
                _check_state(cls(**settings), loaded.arrays, Path(path))
            generator = cls(**settings)
        generator.load_state_dict(loaded.arrays)
        return generator


class Discriminator(nn.Module):
    """Projection discriminator with spectral normalisation.

    Its first block has `width` channels, and each following one twice as many, up to four times `width`.
    """

    def __init__(self, n_classes: int, image_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        blocks, _ = halvings(image_shape)
        channels = [image_shape[0], *(width * min(4, 2**number) for number in range(blocks))]
        self.blocks = nn.ModuleList(
            [_Down(before, after, first=not n) for n, (before, after) in enumerate(itertools.pairwise(channels))]
        )
        self.last = _Down(channels[-1], channels[-1], pool=False)
        self.score = spectral_norm(nn.Linear(channels[-1], 1))
        self.embedding = spectral_norm(nn.Embedding(n_classes, channels[-1]))

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, " batch"]:
        """Return a score per image, larger for images that look like real ones of their label."""
        x = images
        for block in self.blocks:
            x = block(x)
        features = functional.relu(self.last(x)).sum(dim=(2, 3))
        scores: Tensor = self.score(features)[:, 0] + (self.embedding(labels) * features).sum(dim=1)
        return scores


def halvings(image_shape: tuple[int, int, int]) -> tuple[int, tuple[int, int]]:
    """Return how many times the sides of an image can be halved until the shorter has 4 to 7 pixels, and the result."""
    _, height, width = image_shape
    for blocks in range(1, 6):
        base = height >> blocks, width >> blocks
        if 4 <= min(base) <= 7 and (base[0] << blocks, base[1] << blocks) == (height, width):
            return blocks, base
    raise InputError(
        f"images of {height} x {width} pixels",
        "sides from 8 to 128 that are 4 to 7 times a power of two, such as 8, 28, 32",
    )


def _check_state(module: nn.Module, arrays: dict[str, Tensor], path: Path) -> None:
    """Refuse weights whose names or shapes differ from the module's."""
    expected = module.state_dict()
    wrong = sorted(set(expected) ^ set(arrays))
    wrong += sorted(name for name in set(expected) & set(arrays) if expected[name].shape != arrays[name].shape)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        difference = f"it differs in {', '.join(wrong[:3])}{more}"
        raise InputError(f"{path} is of another architecture: {difference}", "weights that fit its settings")


class _ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift are linear in a condition."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.condition = nn.Linear(condition, 2 * channels)
        nn.init.normal_(self.condition.weight, std=0.02 / math.sqrt(condition))
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        normalised: Tensor = self.norm(x) * (1 + scale) + shift
        return normalised


class _Up(nn.Module):
    """Residual block that doubles the sides."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _ConditionalNorm(before, condition), _ConditionalNorm(after, condition)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        y = functional.interpolate(functional.relu(self.norm1(x, condition)), scale_factor=2)
        y = self.conv2(functional.relu(self.norm2(self.conv1(y), condition)))
        output: Tensor = y + functional.interpolate(self.skip(x), scale_factor=2)
        return output


class _Down(nn.Module):
    """Residual block that halves the sides."""

    def __init__(self, before: int, after: int, *, first: bool = False, pool: bool = True) -> None:
        super().__init__()
        self.first, self.pool = first, pool
        self.conv1 = spectral_norm(nn.Conv2d(before, after, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(after, after, 3, padding=1))
        self.skip = spectral_norm(nn.Conv2d(before, after, 1)) if first or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.relu(self.conv1(x if self.first else functional.relu(x))))
        output: Tensor = y + self.skip(x)
        return functional.avg_pool2d(output, 2) if self.pool else output
