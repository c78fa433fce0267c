"""Similarity of generated and real images: Fréchet distances, precision, coverage, and agreement with a classifier."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from attention_matching import EvaluateConfig, FeatureNetwork, Preprocessing, train_teacher
from jaxtyping import Float, Int, UInt8
from sextet_common import checks, data as image_data
from sextet_common.errors import InputError, require
from sextet_common.networks import device_of, evaluating
from torch import Tensor

from d2m_generator.images.latent_set import ImageSource, LatentSet
from d2m_generator.images.plan import BATCH, Plan, collect

_BLOCK = 1000  # points whose distances to all others are in memory at once


@dataclass(frozen=True)
class Quality:
    """Measures of a generator's images.

    Parameters
    ----------
    frechet
        Fréchet distance between features of generated images and real test images.
    frechet_real
        The same between training and test images: the value of a perfect generator.
    agreement
        Share of generated images that a classifier assigns to their label, in [0, 1].
    precision, coverage
        Share of generated images that are close to a real test image, and of test images that have a generated one
        close by; see `precision_and_coverage`.
    coverage_real
        The coverage of the test images by the training images.
    """

    frechet: float
    frechet_real: float
    agreement: float
    precision: float
    coverage: float
    coverage_real: float

    def __str__(self) -> str:
        return (
            f"Fréchet distance {self.frechet:.2f} (real images {self.frechet_real:.2f}), "
            f"precision {100 * self.precision:.0f} %, coverage {100 * self.coverage:.0f} % "
            f"(real images {100 * self.coverage_real:.0f} %), "
            f"{100 * self.agreement:.1f} % of the images are of their class"
        )


class Judge:
    """A classifier trained on the real images, whose features and predictions measure generated ones.

    ``path`` is a file that caches the trained network.
    """

    def __init__(
        self, data: image_data.Source, config: EvaluateConfig | None = None, path: str | os.PathLike[str] | None = None
    ) -> None:
        data = image_data.load(data)
        self.data, self.preprocessing = data, Preprocessing.fit(data)
        config = config or EvaluateConfig(epochs=30, batch=64, width=32)
        network = train_teacher(data, config, self.preprocessing, path)
        assert isinstance(network, FeatureNetwork)
        self.network = network

    def features(
        self,
        pixels: Float[np.ndarray, "images channels height width"] | UInt8[np.ndarray, "images channels height width"],
    ) -> tuple[Float[np.ndarray, "images features"], Int[np.ndarray, " images"]]:
        """Return features and predicted classes of images, uint8 or in [0, 1]."""
        device, embeddings, classes = device_of(self.network), [], []
        with evaluating(self.network), torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                batch = torch.from_numpy(image_data.take(pixels, slice(start, start + BATCH)))
                inputs = self.preprocessing(batch.to(device))
                embedding = self.network.features(inputs).embedding
                embeddings.append(embedding.double().cpu())
                classes.append(self.network.classifier(embedding).argmax(dim=1).cpu())
        return torch.cat(embeddings).numpy(), torch.cat(classes).numpy()

    def __call__(self, generator: ImageSource, images: int = 1000, seed: int = 0) -> Quality:
        """Measure the quality of so many generated images, equally many of each class, with noise of a seed."""
        most = len(generator) if isinstance(generator, LatentSet) else images
        pixels, labels = collect(generator, _evenly(max(min(images, most), self.data.n_classes), generator, seed))
        generated, predicted = self.features(pixels)
        test, _ = self.features(self.data.test_images)
        train, _ = self.features(self.data.train_images)
        agreement = float((predicted == labels).mean())
        precision, coverage = precision_and_coverage(test, generated)
        return Quality(
            frechet_distance(generated, test), frechet_distance(train, test), agreement, precision, coverage,
            precision_and_coverage(test, train)[1],
        )  # fmt: skip


def frechet_distance(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> float:
    """Return the Fréchet distance between normal distributions fitted to two sets of at least two feature vectors.

    ``|mu_a - mu_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``, by symmetric eigenvalues, which also handles singular
    covariances.

    References
    ----------
    GANs trained by a two time-scale update rule, arXiv 1706.08500, which uses features of Inception.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet_distance(x, x + 2.0), 6)
    12.0
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(f"features of shapes {a.shape} and {b.shape}", "at least two rows, equal numbers of columns")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("a feature is not finite", "finite numbers")
    cov_a, cov_b = (np.cov(x, rowvar=False).reshape(x.shape[1], -1) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)
    means = float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum())
    return max(0.0, means + float(np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(eigenvalues).sum()))


def precision_and_coverage(
    real: Float[np.ndarray, "n features"], generated: Float[np.ndarray, "m features"], neighbours: int = 5
) -> tuple[float, float]:
    """Return the share of generated points inside a ball of a real one, and that of real balls with a generated point.

    The ball of a real point reaches to its k-th nearest real neighbour. Both shares depend on the numbers of points.

    References
    ----------
    Improved precision and recall, arXiv 1904.06991; density and coverage, arXiv 2002.09797, with k = 5.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> precision_and_coverage(x, x), precision_and_coverage(x, np.repeat(x[:1], 100, axis=0))[0]
    ((1.0, 1.0), 1.0)
    """
    checks.check("neighbours", neighbours, checks.Count)
    if len(real) <= neighbours:
        raise InputError(f"{len(real)} real points", f"more than neighbours = {neighbours}")
    a, b = (torch.from_numpy(np.asarray(x, dtype=np.float64)) for x in (real, generated))
    inside, covered = torch.zeros(len(b), dtype=torch.bool), 0
    for block in a.split(_BLOCK):
        radii = torch.cdist(block, a).kthvalue(neighbours + 1, dim=1).values  # the nearest is the point itself
        near = torch.cdist(block, b) <= radii[:, None]
        inside |= near.any(dim=0)
        covered += int(near.any(dim=1).sum())
    return float(inside.double().mean()), covered / len(a)


def inception_fid(
    generator: ImageSource,
    data: image_data.Source,
    weights: str | os.PathLike[str],
    *,
    images: int = 10000,
    seed: int = 0,
) -> float:
    """Return the FID to the training images with features of Inception, by torch-fidelity (extra ``fidelity``).

    ``weights`` is a local file with torch-fidelity's weights of Inception; nothing is downloaded. The classes have
    equally many generated images.
    """
    if not Path(weights).is_file():
        raise InputError(f"{weights} is missing", "torch-fidelity's weights of Inception, a local file")
    fidelity = require("torch_fidelity", package="d2m-generator", extra="fidelity")
    data = image_data.load(data)
    made, _ = collect(generator, _evenly(images, generator, seed))
    generated, real = (_Bytes(pixels) for pixels in (made, data.train_images))
    metrics = fidelity.calculate_metrics(
        input1=generated, input2=real, fid=True, feature_extractor_weights_path=str(weights), verbose=False,
        cuda=torch.cuda.is_available(),
    )  # fmt: skip
    return float(metrics["frechet_inception_distance"])


def _evenly(images: int, source: ImageSource, seed: int) -> Plan:
    """Return the plan of so many images, as equally many of each class as possible."""
    counts = np.bincount(np.arange(images) % source.n_classes)
    return Plan(tuple(counts.tolist()), seed, labels=tuple(range(len(counts))))


class _Bytes(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity expects them: three channels of bytes."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        image = torch.from_numpy(image_data.take(self.pixels, [index])[0])
        pixels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
        return pixels.expand(3, -1, -1)
