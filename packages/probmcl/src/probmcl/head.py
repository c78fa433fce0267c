"""The mixture density head: from an encoder's features to a Gaussian mixture for every image.

A mixture is three tensors, as in ``gmr_metric.torch``; the head keeps them in float32, whatever autocast says, since
the tails of a mixture do not fit into half precision.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

Covariance = Literal["isotropic", "diagonal"]
MeanShape = Literal["vector", "scalar"]
Positive = Literal["elu", "softplus", "exp"]

_LARGEST_LOG_STD = 10.0  # exp(10) = 22026: what keeps `exp` from overflowing, and far from any sensible deviation


class MixtureParameters(NamedTuple):
    """A batch of Gaussian mixtures: what the head makes of a batch of images.

    Attributes
    ----------
    log_weights
        Normalised log weights, shape (batch, components).
    means
        Shape (batch, components, dims).
    log_std
        Logs of the standard deviations, in the means' unit: shape (batch, components) for isotropic components,
        (batch, components, dims) for diagonal ones.

    Examples
    --------
    >>> mixture = MixtureParameters(torch.zeros(4, 1), torch.zeros(4, 1, 8), torch.zeros(4, 1))
    >>> mixture.covariance, mixture.log_prob(torch.zeros(4, 8)).shape
    ('isotropic', torch.Size([4]))
    """

    log_weights: Float[Tensor, "batch components"]
    means: Float[Tensor, "batch components dims"]
    log_std: Float[Tensor, "batch components *dims"]

    @property
    def covariance(self) -> Covariance:
        """The kind of the covariances."""
        return "isotropic" if self.log_std.ndim < self.means.ndim else "diagonal"

    @property
    def variances(self) -> Float[Tensor, "batch components *dims"]:
        """The variances, of the shape of `log_std`."""
        return (2 * self.log_std).exp()

    def log_prob(self, points: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        """Compute the log density of each mixture at a point of its own.

        Parameters
        ----------
        points
            One point a mixture, shape (batch, dims).

        Returns
        -------
        Tensor
            Shape (batch,), in nats.

        Raises
        ------
        InputError
            Where the points do not fit the mixtures.
        """
        return torch.logsumexp(self.log_joint(points), dim=-1)

    def log_joint(self, points: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch components"]:
        """Compute each component's share of the density at a point: log weight plus log density of the component.

        Parameters
        ----------
        points
            One point a mixture, shape (batch, dims).

        Returns
        -------
        Tensor
            Shape (batch, components), in nats.

        Raises
        ------
        InputError
            Where the points do not fit the mixtures.
        """
        self.check()
        if points.shape != (self.means.shape[0], self.means.shape[2]):
            expected = f"{(self.means.shape[0], self.means.shape[2])}, a point for each mixture"
            raise InputError(f"points have shape {tuple(points.shape)}", expected)
        difference = points.to(self.means.dtype)[:, None, :] - self.means
        if self.covariance == "isotropic":
            scaled = difference * (-self.log_std).exp()[..., None]
            log_scale = self.means.shape[2] * self.log_std
        else:
            scaled = difference * (-self.log_std).exp()
            log_scale = self.log_std.sum(dim=-1)
        constant = self.means.shape[2] * math.log(2 * math.pi)
        exponent = -0.5 * (scaled.square().sum(dim=-1) + constant) - log_scale
        return self.log_weights + exponent

    def select(self, index: Int[Tensor, " chosen"] | slice) -> MixtureParameters:
        """Return some of the mixtures, in the order of an index or a slice."""
        return MixtureParameters(*(tensor[index] for tensor in self))

    def detach(self) -> MixtureParameters:
        """Return the mixtures without their history."""
        return MixtureParameters(*(tensor.detach() for tensor in self))

    @staticmethod
    def cat(mixtures: list[MixtureParameters]) -> MixtureParameters:
        """Join batches, one after another."""
        return MixtureParameters(*(torch.cat(tensors) for tensors in zip(*mixtures, strict=True)))

    def check(self) -> None:
        """Raise InputError where the three tensors do not fit each other or are not of floating point."""
        weights, means, std = (tuple(tensor.shape) for tensor in self)
        if len(means) != 3 or weights != means[:2] or std not in (means[:2], means):
            given = f"log_weights, means, log_std have shapes {weights}, {means}, {std}"
            raise InputError(given, "(batch, components), (batch, components, dims) and one of these two")
        if not all(tensor.is_floating_point() for tensor in self):
            raise InputError(f"the mixture has dtypes {[t.dtype for t in self]}", "floating-point tensors")


class MixtureDensityHead(nn.Module):
    """Features to mixtures: a trunk of linear layers, then three linear heads for weights, means and deviations.

    The trunk's last layer has `dim` outputs: the projection of an image, a point in the space of the mixtures, which
    the likelihood is taken of.

    Parameters
    ----------
    in_features
        Width of the encoder's features.
    n_components
        Components of each mixture: in the paper as many as labels, component k being label k's.
    dim
        Dimensions of the mixtures.
    covariance
        "isotropic", one deviation a component, or "diagonal", one a component and dimension.
    hidden
        Widths of the trunk before its last layer.
    mean
        "vector", a mean of `dim` numbers a component, or "scalar", one number for all dimensions.
    positive
        What makes deviations positive: 1 + elu, softplus or exp.
    min_std
        The least deviation. A head that sees the point whose likelihood is taken could shrink its deviations to
        nothing; this floor is what stops it.

    Raises
    ------
    InputError
        For a width below 1, a floor that is not positive, or an unknown option.

    References
    ----------
    The figure of arXiv 2401.01448: Linear(2048), Linear(128), then linear heads with softmax for the weights and ELU
    for the deviations. ELU goes down to -1, so something must be added; 1 and the floor, the ReLU between the linear
    layers and the choice of covariance are *ours*.

    Examples
    --------
    >>> head = MixtureDensityHead(in_features=64, n_components=10, dim=16, hidden=(32,))
    >>> mixture = head(torch.randn(4, 64))
    >>> mixture.means.shape, mixture.log_std.shape
    (torch.Size([4, 10, 16]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        in_features: int,
        n_components: int,
        dim: int,
        covariance: Covariance = "isotropic",
        *,
        hidden: tuple[int, ...] = (2048,),
        mean: MeanShape = "vector",
        positive: Positive = "elu",
        min_std: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in {"in_features": in_features, "n_components": n_components, "dim": dim}.items():
            if value < 1:
                raise InputError(f"{name} is {value}", "a whole number >= 1")
        if any(width < 1 for width in hidden):
            raise InputError(f"hidden is {hidden}", "whole numbers >= 1, or nothing")
        for name, chosen, known in (
            ("covariance", covariance, Covariance),
            ("mean", mean, MeanShape),
            ("positive", positive, Positive),
        ):
            if chosen not in get_args(known):
                raise InputError(f"{name} is {chosen!r}", " or ".join(get_args(known)))
        if not min_std > 0 or not math.isfinite(min_std):
            raise InputError(f"min_std is {min_std}", "a positive number")
        self.n_components, self.dim, self.covariance, self.min_std = n_components, dim, covariance, min_std
        self.mean, self.positive = mean, positive
        widths = (in_features, *hidden, dim)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.trunk = nn.Sequential(*layers[:-1])
        self.weights_of = nn.Linear(dim, n_components)
        self.means_of = nn.Linear(dim, n_components * (dim if mean == "vector" else 1))
        self.deviations_of = nn.Linear(dim, n_components * (dim if covariance == "diagonal" else 1))

    def project(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch dims"]:
        """Map features to points in the space of the mixtures.

        Parameters
        ----------
        features
            The encoder's features, shape (batch, in_features).

        Returns
        -------
        Tensor
            Shape (batch, dim), float32 or wider.
        """
        projected: Tensor = self.trunk(features)
        return projected if projected.dtype == torch.float64 else projected.float()

    def mixture(self, projection: Float[Tensor, "batch dims"]) -> MixtureParameters:
        """Map projections to mixtures, outside autocast.

        Parameters
        ----------
        projection
            What `project` returned, shape (batch, dim).

        Returns
        -------
        MixtureParameters
            One mixture a row.
        """
        with torch.autocast(projection.device.type, enabled=False):
            hidden = functional.relu(projection)
            log_weights = functional.log_softmax(self.weights_of(hidden), dim=-1)
            means = self.means_of(hidden).unflatten(-1, (self.n_components, -1))
            raw = self.deviations_of(hidden)
            if self.covariance == "diagonal":
                raw = raw.unflatten(-1, (self.n_components, -1))
            if self.positive == "exp":
                std = raw.clamp(max=_LARGEST_LOG_STD).exp()
            else:
                std = functional.softplus(raw) if self.positive == "softplus" else 1 + functional.elu(raw)
            return MixtureParameters(log_weights, means.expand(-1, -1, self.dim), (std + self.min_std).log())

    def forward(self, features: Float[Tensor, "batch features"]) -> MixtureParameters:
        """Map features to mixtures.

        Parameters
        ----------
        features
            The encoder's features, shape (batch, in_features).

        Returns
        -------
        MixtureParameters
            One mixture a row.
        """
        return self.mixture(self.project(features))
