"""A batch of Gaussian mixtures as three tensors, in the form that ``gmr_metric.torch`` takes."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from sextet_common.errors import InputError
from torch import Tensor

Covariance = Literal["isotropic", "diagonal"]


class MixtureParameters(NamedTuple):
    """A batch of Gaussian mixtures, one an image.

    ``log_weights`` are normalised. ``log_std`` holds logarithms of the standard deviations, in the means' unit: shape
    (batch, components) for isotropic components, (batch, components, dims) for diagonal ones.

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
        """Whether the components are isotropic or diagonal."""
        return "isotropic" if self.log_std.ndim < self.means.ndim else "diagonal"

    @property
    def variances(self) -> Float[Tensor, "batch components *dims"]:
        """The variances, in the shape of `log_std`."""
        return (2 * self.log_std).exp()

    def log_prob(self, points: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        """Compute the log density of each mixture at its point, in nats."""
        return torch.logsumexp(self.log_joint(points), dim=-1)

    def log_joint(self, points: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch components"]:
        """Compute log weight plus log density of every component at the mixture's point, in nats."""
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
        """Return the mixtures detached from the graph."""
        return MixtureParameters(*(tensor.detach() for tensor in self))

    @staticmethod
    def cat(mixtures: list[MixtureParameters]) -> MixtureParameters:
        """Concatenate batches."""
        return MixtureParameters(*(torch.cat(tensors) for tensors in zip(*mixtures, strict=True)))

    def check(self) -> None:
        """Raise InputError if the three tensors do not fit each other or are not of floating point."""
        weights, means, std = (tuple(tensor.shape) for tensor in self)
        if len(means) != 3 or weights != means[:2] or std not in (means[:2], means):
            shapes = f"log_weights, means, log_std have shapes {weights}, {means}, {std}"
            raise InputError(shapes, "(batch, components), (batch, components, dims) and one of these two")
        if not all(tensor.is_floating_point() for tensor in self):
            raise InputError(f"the mixture has dtypes {[t.dtype for t in self]}", "floating-point tensors")
