"""Matching losses: the distance between the class statistics of real and synthetic images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from jaxtyping import Float
from sextet_common.checks import NonNegative, check
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.kinds import Method, Power
from attention_matching.matching.attention import Backend, attention_distances, attention_means, class_means
from attention_matching.networks.base import Features


class Loss(Protocol):
    """The interface of a loss: two functions, so that a new loss needs no change of the loop.

    The statistics are means over each class's images, so they may be computed in parts (the mean of equal parts'
    means is the mean of all) and, for real images, without gradients.

    A loss may also have ``distance(features, real, n_classes)``, which must equal
    ``compare(real, statistics(features, n_classes))``: a faster way to the loss of the synthetic images.
    """

    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of everything that is matched: (n_classes, size) for each term of the loss.

        The features lie class after class, with equally many images of each class.
        """
        ...

    def compare(self, real: tuple[Tensor, ...], synthetic: tuple[Tensor, ...]) -> Float[Tensor, " classes"]:
        """Compare the statistics of real and synthetic images; return each class's loss, shape (n_classes,)."""
        ...


def distance_of(loss: Loss) -> Callable[[Features, tuple[Tensor, ...], int], Tensor]:
    """Return a loss's ``distance``, or its ``statistics`` followed by its ``compare``.

    The latter also where a subclass overrides one of the two, but inherits ``distance``.
    """
    defined = {
        name: next((place for place, base in enumerate(type(loss).__mro__) if name in vars(base)), -1)
        for name in ("distance", "statistics", "compare")
    }
    if 0 <= defined["distance"] <= min(defined["statistics"], defined["compare"]):
        distance: Callable[[Features, tuple[Tensor, ...], int], Tensor] = loss.distance  # type: ignore[attr-defined]  # optional
        return distance
    return lambda features, real, n_classes: loss.compare(real, loss.statistics(features, n_classes))


class _MatchingLoss(nn.Module, ABC):
    """A loss that is a weighted sum of squared distances between class means."""

    @abstractmethod
    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of everything that is matched: see :class:`Loss`."""

    @abstractmethod
    def _weights(self, terms: int) -> list[float]:
        """Return the weight of each of so many terms."""

    def compare(self, real: tuple[Tensor, ...], synthetic: tuple[Tensor, ...]) -> Float[Tensor, " classes"]:
        """Sum the weighted squared distances of each class: shape (n_classes,); the paper's loss is their sum."""
        shapes = [[tuple(term.shape) for term in terms] for terms in (real, synthetic)]
        if shapes[0] != shapes[1]:
            raise InputError(f"real and synthetic statistics must have equal shapes, got {shapes[0]} and {shapes[1]}")
        distances = [(a - b).square().sum(dim=1) for a, b in zip(real, synthetic, strict=True)]
        total, *others = [w * d for w, d in zip(self._weights(len(distances)), distances, strict=True)]
        for term in others:
            total = total + term
        return total

    def distance(self, features: Features, real: tuple[Tensor, ...], n_classes: int) -> Float[Tensor, " classes"]:
        """Compare features with the statistics of real images: ``compare(real, statistics(features, n_classes))``."""
        return self.compare(real, self.statistics(features, n_classes))

    def forward(self, real: Features, synthetic: Features, n_classes: int) -> Float[Tensor, " classes"]:
        """Compare features class by class; see :meth:`Loss.statistics` for their order."""
        return self.compare(self.statistics(real, n_classes), self.statistics(synthetic, n_classes))


class AttentionMatchingLoss(_MatchingLoss):
    """DataDAM's and ATOM's loss: attention maps of the inner blocks, plain features of the last.

    For class k, with real images T and synthetic images S of that class::

        loss[k] = scale * (spatial_weight * sum over l < L of ||mean_T z_l - mean_S z_l||^2
                           + channel_weight * sum over l < L of ||mean_T c_l - mean_S c_l||^2
                           + feature_weight * ||mean_T h - mean_S h||^2)

    where ``z_l`` and ``c_l`` are block l's normalised spatial and channel attention maps and ``h`` the flattened
    features of the last block L. DataDAM (arXiv 2310.00093, section 3) matches only the spatial maps, ATOM (arXiv
    2405.01373, section 3) both.

    Parameters
    ----------
    power, channel_power
        The maps' exponent p: 4 in the paper's table, 1 in DataDAM's public code; by default the same for both kinds.
    feature_weight
        The weight lambda of the features: 0.01 for small images, 0.02 from 64x64.
    scale
        The factor s: 100 in DataDAM's public code, which its learning rates assume.
    spatial_weight, channel_weight
        Not specified in ATOM; we use 1 for both.

    Examples
    --------
    >>> import torch
    >>> from attention_matching.networks.convnet import ConvNet
    >>> images = torch.rand(4, 1, 8, 8)
    >>> features = ConvNet((1, 8, 8), 2, width=4, depth=2).features(images)
    >>> AttentionMatchingLoss()(features, features, n_classes=2).tolist()
    [0.0, 0.0]
    >>> [tuple(s.shape) for s in AttentionMatchingLoss(channel=True).statistics(features, n_classes=2)]
    [(2, 64), (2, 4), (2, 16)]
    """

    def __init__(
        self,
        *,
        spatial: bool = True,
        channel: bool = False,
        power: int = 4,
        channel_power: int | None = None,
        feature_weight: float = 0.01,
        scale: float = 100.0,
        spatial_weight: float = 1.0,
        channel_weight: float = 1.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if not (spatial or channel):
            raise InputError("spatial or channel must be True, got False for both; or use DistributionMatchingLoss")
        channel_power = power if channel_power is None else channel_power
        check("power", power, Power)
        check("channel_power", channel_power, Power)
        for name, weight in (
            ("feature_weight", feature_weight),
            ("scale", scale),
            ("spatial_weight", spatial_weight),
            ("channel_weight", channel_weight),
        ):
            check(name, weight, NonNegative)
        self.spatial_power = power if spatial else None
        self.channel_power = channel_power if channel else None
        self.feature_weight, self.scale = float(feature_weight), float(scale)
        self.spatial_weight, self.channel_weight = float(spatial_weight), float(channel_weight)
        self.backend: Backend = backend

    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of the inner blocks' maps and of the embedding.

        Block after block the mean spatial map, then the mean channel map, if matched; last the mean embedding. In
        float32, or float64 for float64.
        """
        terms = []
        for block in features.maps[:-1]:
            pair = attention_means(block, n_classes, self.spatial_power, self.channel_power, self.backend)
            terms += [mean for mean in pair if mean is not None]
        return (*terms, _mean_embedding(features, n_classes))

    def distance(self, features: Features, real: tuple[Tensor, ...], n_classes: int) -> Float[Tensor, " classes"]:
        """Compare features with the statistics of real images: ``compare(real, statistics(features, n_classes))``.

        Each block's maps, means and squared distances are computed at once; see :func:`attention_distances`.
        """
        blocks, powers = features.maps[:-1], (self.spatial_power, self.channel_power)
        mean = _mean_embedding(features, n_classes)
        if (
            len(real) != (2 - powers.count(None)) * len(blocks) + 1
            or real[-1].shape != mean.shape
            or any(term.requires_grad for term in real)
        ):
            return super().distance(features, real, n_classes)
        *terms, embedding = real
        total = self.scale * self.feature_weight * (embedding - mean).square().sum(dim=1)
        rest = iter(terms)
        for block in blocks:
            spatial, channel = (None if power is None else next(rest) for power in powers)
            weights = self.scale * self.spatial_weight, self.scale * self.channel_weight
            pair = (spatial, channel)
            total = total + attention_distances(block, pair, n_classes, *powers, weights, self.backend)
        return total

    def _weights(self, terms: int) -> list[float]:
        kinds = ((self.spatial_power, self.spatial_weight), (self.channel_power, self.channel_weight))
        weights = [weight for power, weight in kinds if power is not None]
        blocks = (terms - 1) // len(weights)
        return [self.scale * weight for weight in (*weights * blocks, self.feature_weight)]


class DistributionMatchingLoss(_MatchingLoss):
    """Distribution matching's loss: the distance between the mean features of the last block.

    For class k, with real images T and synthetic images S of that class::

        loss[k] = scale * ||mean_T h - mean_S h||^2

    Zhao, Bilen: Dataset condensation with distribution matching (WACV 2023), equation 5. DM's own code has no
    ``scale``, and a learning rate of 1.

    Examples
    --------
    >>> import torch
    >>> features = [Features((), torch.full((4, 3), value)) for value in (1.0, 3.0)]
    >>> DistributionMatchingLoss()(*features, n_classes=2)
    tensor([12., 12.])
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        check("scale", scale, NonNegative)
        self.scale = float(scale)

    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of the embedding, the only term."""
        return (_mean_embedding(features, n_classes),)

    def _weights(self, terms: int) -> list[float]:
        return [self.scale] * terms


def make_loss(
    method: Method,
    power: int = 4,
    feature_weight: float = 0.01,
    scale: float | None = None,
    attention_weight: float = 1.0,
) -> AttentionMatchingLoss | DistributionMatchingLoss:
    """Return the loss of a method.

    ``datadam`` matches spatial attention and features, ``atom`` channel attention too, ``dm`` only features. ``scale``
    is by default that of the method's own code: 100, and 1 for ``dm``. ``attention_weight`` is that of all maps.

    Examples
    --------
    >>> make_loss("dm").scale, make_loss("atom", power=1).channel_power
    (1.0, 1)
    """
    check("method", method, Method)
    if method == "dm":
        return DistributionMatchingLoss(scale=1.0 if scale is None else scale)
    return AttentionMatchingLoss(
        channel=method == "atom",
        power=power,
        feature_weight=feature_weight,
        scale=100.0 if scale is None else scale,
        spatial_weight=attention_weight,
        channel_weight=attention_weight,
    )


def _mean_embedding(features: Features, n_classes: int) -> Tensor:
    """Return the mean embeddings, in float32 where the network computed in half precision."""
    embedding = features.embedding
    return class_means(embedding.float() if embedding.element_size() < 4 else embedding, n_classes)
