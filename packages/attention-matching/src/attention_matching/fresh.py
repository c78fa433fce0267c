"""Fresh random networks without building any: one network whose weights are drawn anew, in place, from a key."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching import keyed
from attention_matching.networks import FeatureNetwork

_CONSTANT = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)  # start as factor 1 and offset 0, whatever is drawn


class FreshNetworks:
    """A family of networks with random weights, of which every key names one.

    The weights lie in one buffer that a single draw fills on the network's device. Their
    law is that of torch's own initialisation of convolutions and linear layers: uniform
    within 1 / sqrt(inputs of a unit), weights and offsets alike.

    Parameters
    ----------
    network
        One network of the family; it is taken over: its weights no longer need gradients.

    Raises
    ------
    InputError
        Where the network has weights of its own that are no convolution's, linear layer's
        or normalisation's: how they start is not known here.

    Examples
    --------
    >>> from attention_matching.networks import ConvNet
    >>> family = FreshNetworks(ConvNet((1, 8, 8), 10, width=4))
    >>> first = family.draw(keyed.key(0, "network")).classifier.weight.clone()
    >>> bool((family.draw(keyed.key(1, "network")).classifier.weight == first).any())
    False
    >>> bool((family.draw(keyed.key(0, "network")).classifier.weight == first).all())
    True
    """

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network.requires_grad_(False)
        drawn: list[tuple[nn.Parameter, float]] = []
        for name, module in network.named_modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(module.weight[0].numel())
                drawn += [(parameter, bound) for parameter in own]
            elif own and not isinstance(module, _CONSTANT):
                raise InputError(
                    f"{name or 'the network'} is a {type(module).__name__} with weights of its own",
                    "convolutions, linear layers and normalisations: other weights have no known fresh state",
                )
        sizes = [parameter.numel() for parameter, _ in drawn]
        where = drawn[0][0].device
        self._bounds = torch.cat([torch.full((n,), b, device=where) for n, (_, b) in zip(sizes, drawn, strict=True)])
        self._flat = torch.empty(sum(sizes), device=where)
        for part, (parameter, _) in zip(self._flat.split(sizes), drawn, strict=True):
            parameter.data = _shaped_like(part, parameter)

    def draw(self, key: Int[Tensor, ""]) -> FeatureNetwork:
        """Draw the network of a key.

        Parameters
        ----------
        key
            See :mod:`attention_matching.keyed`; on the network's device.

        Returns
        -------
        FeatureNetwork
            The one network, with the weights of this key until the next draw.
        """
        torch.mul(keyed.uniform(key, len(self._flat)) * 2 - 1, self._bounds, out=self._flat)
        return self.network


def _shaped_like(part: Tensor, parameter: Tensor) -> Tensor:
    """View a stretch of the buffer in the parameter's shape and order in memory."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        out, inside, height, width = parameter.shape
        return part.view(out, height, width, inside).permute(0, 3, 1, 2)
    return part.view(parameter.shape)
