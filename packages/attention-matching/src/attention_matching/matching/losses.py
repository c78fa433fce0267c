"""What a distilled set is trained on: the distance between real and synthetic statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Protocol, get_args

from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.matching.attention import Backend, attention_means, checked_power, class_means
from attention_matching.networks.base import Features

Method = Literal["datadam", "atom", "dm"]


class Loss(Protocol):
    """What the distillation asks of a loss: two functions, so that a new one needs no change of the loop.

    The statistics are means over each class's images, so the loop may take them in parts
    (the mean of equal parts' means is the mean of all) and, of real images, without gradients.
    """

    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of everything that is matched.

        Parameters
        ----------
        features
            A network's features, class after class, equally many images of each class.
        n_classes
            How many classes there are.

        Returns
        -------
        tuple of Tensor
            One for each term of the loss, each of shape (n_classes, that term's size).
        """
        ...

    def compare(self, real: tuple[Tensor, ...], synthetic: tuple[Tensor, ...]) -> Float[Tensor, " classes"]:
        """Compare the statistics of real and synthetic images.

        Parameters
        ----------
        real, synthetic
            The statistics of both.

        Returns
        -------
        Tensor
            Each class's loss, shape (n_classes,).
        """
        ...


class _MatchingLoss(nn.Module, ABC):
    """A loss that is a weighted sum of squared distances between class means."""

    @abstractmethod
    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of everything that is matched: see :class:`Loss`."""

    @abstractmethod
    def _weights(self, terms: int) -> list[float]:
        """Return the weight of each of so many terms."""

    def compare(self, real: tuple[Tensor, ...], synthetic: tuple[Tensor, ...]) -> Float[Tensor, " classes"]:
        """Add up the weighted squared distances of each class.

        Parameters
        ----------
        real, synthetic
            The statistics of both, as :meth:`statistics` returns them.

        Returns
        -------
        Tensor
            Each class's loss, shape (n_classes,): their sum is the loss of the paper.

        Raises
        ------
        InputError
            Where the two are not statistics of the same terms.
        """
        shapes = [[tuple(term.shape) for term in terms] for terms in (real, synthetic)]
        if shapes[0] != shapes[1]:
            raise InputError(f"statistics of shapes {shapes[0]} and {shapes[1]}", "those of one network for both")
        distances = [(a - b).square().sum(dim=1) for a, b in zip(real, synthetic, strict=True)]
        total, *others = [w * d for w, d in zip(self._weights(len(distances)), distances, strict=True)]
        for term in others:
            total = total + term
        return total

    def forward(self, real: Features, synthetic: Features, n_classes: int) -> Float[Tensor, " classes"]:
        """Compare the features of real and synthetic images, class by class.

        Parameters
        ----------
        real, synthetic
            A network's features of both, class after class, equally many of each class.
        n_classes
            How many classes there are.

        Returns
        -------
        Tensor
            Each class's loss, shape (n_classes,).

        Raises
        ------
        InputError
            Where the two are not features of one network, or not equally many of each class.
        """
        return self.compare(self.statistics(real, n_classes), self.statistics(synthetic, n_classes))


class AttentionMatchingLoss(_MatchingLoss):
    """DataDAM's and ATOM's loss: attention maps of the inner blocks, plain features of the last.

    For class k, with real images T and synthetic images S of that class::

        loss[k] = scale * (spatial_weight * sum over l < L of ||mean_T z_l - mean_S z_l||^2
                           + channel_weight * sum over l < L of ||mean_T c_l - mean_S c_l||^2
                           + feature_weight * ||mean_T h - mean_S h||^2)

    where ``z_l`` and ``c_l`` are block l's normalised spatial and channel attention maps and
    ``h`` the flattened features of the last block L. DataDAM has the spatial maps alone, ATOM
    both.

    Parameters
    ----------
    spatial, channel
        Which maps are matched.
    power
        The spatial maps' exponent p: 4 in the paper's table, 1 in DataDAM's public code.
    channel_power
        The channel maps' exponent; None for the same.
    feature_weight
        The weight lambda of the features: 0.01 for small images, 0.02 from 64x64.
    scale
        The factor s. DataDAM's public code has 100, and its learning rates assume it.
    spatial_weight, channel_weight
        The weights of the two kinds of maps. ATOM's text gives none, so both are 1.
    backend
        Who computes the maps: see :func:`~attention_matching.matching.attention.attention_maps`.

    Raises
    ------
    InputError
        Where neither map is matched, or a power or a weight is out of its range.

    References
    ----------
    DataDAM (arXiv 2310.00093), section 3; ATOM (arXiv 2405.01373), section 3.

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
            raise InputError("spatial and channel are both False", "one of them, or DistributionMatchingLoss")
        self.spatial_power = checked_power(power) if spatial else None
        self.channel_power = checked_power(power if channel_power is None else channel_power) if channel else None
        self.feature_weight = _weight("feature_weight", feature_weight)
        self.scale = _weight("scale", scale)
        self.map_weights = [
            _weight(name, weight)
            for name, weight, wanted in (
                ("spatial_weight", spatial_weight, spatial),
                ("channel_weight", channel_weight, channel),
            )
            if wanted
        ]
        self.backend: Backend = backend

    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of the inner blocks' maps and of the last block's features.

        Parameters
        ----------
        features
            A network's features, class after class, equally many images of each class.
        n_classes
            How many classes there are.

        Returns
        -------
        tuple of Tensor
            Block after block the mean spatial and then the mean channel map, as far as they
            are matched; last the mean embedding. In float32, or float64 for float64.

        Raises
        ------
        InputError
            Where the images cannot be shared out equally.
        """
        terms = []
        for block in features.maps[:-1]:
            pair = attention_means(block, n_classes, self.spatial_power, self.channel_power, self.backend)
            terms += [mean for mean in pair if mean is not None]
        return (*terms, _mean_embedding(features, n_classes))

    def _weights(self, terms: int) -> list[float]:
        blocks = (terms - 1) // len(self.map_weights)
        return [self.scale * weight for weight in (*self.map_weights * blocks, self.feature_weight)]


class DistributionMatchingLoss(_MatchingLoss):
    """Distribution matching's loss: the distance between the mean features of the last block.

    For class k, with real images T and synthetic images S of that class::

        loss[k] = scale * ||mean_T h - mean_S h||^2

    Parameters
    ----------
    scale
        A factor. DM's own code has none, and a learning rate of 1.

    References
    ----------
    Zhao, Bilen: Dataset condensation with distribution matching (WACV 2023), equation 5.

    Examples
    --------
    >>> import torch
    >>> features = [Features((), torch.full((4, 3), value)) for value in (1.0, 3.0)]
    >>> DistributionMatchingLoss()(*features, n_classes=2)
    tensor([12., 12.])
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = _weight("scale", scale)

    def statistics(self, features: Features, n_classes: int) -> tuple[Float[Tensor, "classes size"], ...]:
        """Compute the class means of the last block's features.

        Parameters
        ----------
        features
            A network's features, class after class, equally many images of each class.
        n_classes
            How many classes there are.

        Returns
        -------
        tuple of Tensor
            The mean embedding alone, shape (n_classes, size).

        Raises
        ------
        InputError
            Where the images cannot be shared out equally.
        """
        return (_mean_embedding(features, n_classes),)

    def _weights(self, terms: int) -> list[float]:
        return [self.scale] * terms


def make_loss(
    method: Method, power: int = 4, feature_weight: float = 0.01, scale: float | None = None
) -> AttentionMatchingLoss | DistributionMatchingLoss:
    """Make the loss of a method.

    Parameters
    ----------
    method
        ``datadam`` (spatial attention and features), ``atom`` (channel attention too) or
        ``dm`` (features alone).
    power
        The exponent of the attention maps.
    feature_weight
        The weight of the features beside the maps.
    scale
        The factor of the whole loss; None for the method's own code's: 100, and 1 for ``dm``.

    Returns
    -------
    AttentionMatchingLoss or DistributionMatchingLoss
        The loss.

    Raises
    ------
    InputError
        Where the method is unknown, or a number out of its range.

    Examples
    --------
    >>> make_loss("dm").scale, make_loss("atom", power=1).channel_power
    (1.0, 1)
    """
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}", ", ".join(get_args(Method)))
    if method == "dm":
        return DistributionMatchingLoss(scale=1.0 if scale is None else scale)
    return AttentionMatchingLoss(
        channel=method == "atom",
        power=power,
        feature_weight=feature_weight,
        scale=100.0 if scale is None else scale,
    )


def _mean_embedding(features: Features, n_classes: int) -> Tensor:
    """Return the mean embeddings, in float32 where the network computed in half precision."""
    embedding = features.embedding
    return class_means(embedding.float() if embedding.element_size() < 4 else embedding, n_classes)


def _weight(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} is {value}", "a number >= 0")
    return float(value)
