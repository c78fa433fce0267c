"""How near a generator's images are to the real ones: a Fréchet distance on features of a classifier trained here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from attention_matching import EvaluateConfig, FeatureNetwork, Preprocessing, train_teacher
from jaxtyping import Float
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, require
from sextet_common.networks import device_of, evaluating
from torch import Tensor

from d2m_generator.generator import Generator, noise_of

_AT_ONCE = 256


@dataclass(frozen=True)
class Quality:
    """How good a generator's images are.

    Parameters
    ----------
    frechet
        Fréchet distance between features of generated images and of real test images.
    frechet_real
        The same between training and test images: what a perfect generator would have.
    agreement
        Share of generated images that a classifier takes for the class that was asked for, in [0, 1].
    """

    frechet: float
    frechet_real: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"Fréchet distance {self.frechet:.2f} (real images {self.frechet_real:.2f}), "
            f"{100 * self.agreement:.1f} % of the images are of their class"
        )


class Judge:
    """A classifier of the real images, trained here, whose features and predictions tell how good others are.

    Parameters
    ----------
    data
        The real images.
    config
        The network, and how it is trained.
    path
        A file that keeps it.
    """

    def __init__(
        self, data: ImageSet, config: EvaluateConfig | None = None, path: str | os.PathLike[str] | None = None
    ) -> None:
        self.data, self.preprocessing = data, Preprocessing.fit(data)
        config = config or EvaluateConfig(epochs=30, batch=64, width=32)
        network = train_teacher(data, config, self.preprocessing, path)
        assert isinstance(network, FeatureNetwork)
        self.network = network

    def features(self, pixels: np.ndarray) -> tuple[Float[np.ndarray, "images features"], np.ndarray]:
        """Return features and predicted classes of images in [0, 1]."""
        where, found, classes = device_of(self.network), [], []
        with evaluating(self.network), torch.inference_mode():
            for start in range(0, len(pixels), _AT_ONCE):
                inputs = self.preprocessing(pixels[start : start + _AT_ONCE]).to(where)
                embedding = self.network.features(inputs).embedding
                found.append(embedding.double().cpu())
                classes.append(self.network.classifier(embedding).argmax(dim=1).cpu())
        return torch.cat(found).numpy(), torch.cat(classes).numpy()

    def __call__(self, generator: Generator, images: int = 1000, seed: int = 0) -> Quality:
        """Judge a generator.

        Parameters
        ----------
        generator
            The generator.
        images
            How many of its images are looked at, in equal parts of each class.
        seed
            Of their noise.

        Returns
        -------
        Quality
            The figures.
        """
        labels = np.arange(max(images, self.data.n_classes)) % self.data.n_classes
        made, predicted = self.features(pixels_of(generator, labels, seed))
        real, _ = self.features(self.data.test_images)
        known, _ = self.features(self.data.train_images)
        return Quality(frechet_distance(made, real), frechet_distance(known, real), float((predicted == labels).mean()))


def frechet_distance(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> float:
    """Compute the Fréchet distance between the normal distributions of two tables' rows.

    ``|mu_a - mu_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``, by symmetric eigenvalues, so that singular covariances do.

    Parameters
    ----------
    a, b
        Features, two rows at least.

    Returns
    -------
    float
        At least 0.

    Raises
    ------
    InputError
        Where there are too few rows, unlike numbers of features, or values that are not finite.

    References
    ----------
    GANs trained by a two time-scale update rule, arXiv 1706.08500, which takes Inception's features.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet_distance(x, x + 2.0), 6)
    12.0
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(f"features of shapes {a.shape} and {b.shape}", "two rows at least, equally many columns")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("a feature is not finite", "finite numbers")
    first, second = np.cov(a, rowvar=False).reshape(a.shape[1], -1), np.cov(b, rowvar=False).reshape(b.shape[1], -1)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    apart = float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum())
    return max(0.0, apart + float(np.trace(first) + np.trace(second) - 2 * np.sqrt(inner).sum()))


def inception_fid(
    generator: Generator, data: ImageSet, weights: str | os.PathLike[str], *, images: int = 10000, seed: int = 0
) -> float:
    """Compute FID with Inception's features, by torch-fidelity (extra ``fidelity``), from a local file of its weights.

    Parameters
    ----------
    generator, images, seed
        As for `Judge`.
    data
        The real images: its training part.
    weights
        torch-fidelity's file of weights, which is not fetched.

    Returns
    -------
    float
        FID.

    Raises
    ------
    InputError
        Where the file or torch-fidelity is missing.
    """
    if not Path(weights).is_file():
        raise InputError(f"{weights} is missing", "torch-fidelity's weights of Inception, a local file")
    fidelity = require("torch_fidelity", package="d2m-generator", extra="fidelity")
    labels = np.arange(images) % generator.n_classes
    sets = [_Bytes(pixels) for pixels in (pixels_of(generator, labels, seed), data.train_images)]
    found = fidelity.calculate_metrics(
        input1=sets[0], input2=sets[1], fid=True, feature_extractor_weights_path=str(weights), verbose=False,
        cuda=torch.cuda.is_available(),
    )  # fmt: skip
    return float(found["frechet_inception_distance"])


def pixels_of(generator: Generator, labels: np.ndarray, seed: int) -> Float[np.ndarray, "images c h w"]:
    """Make images of labels in batches, clipped to [0, 1]; image i has the noise of (seed, i)."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(labels), _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, len(labels)))
            noise = noise_of(numbers, generator.noise_shape, seed)
            made = generator.sample(torch.tensor(labels[start : numbers.stop]), noise=noise)
            found.append(made.float().clamp(0, 1).cpu())
    return torch.cat(found).numpy()


class _Bytes(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity takes them: three channels of bytes."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        image = torch.tensor(self.pixels[index])
        return (image.expand(3, -1, -1) * 255).round().to(torch.uint8)
