"""Fresh random networks without building any: one network whose weights are drawn anew, in place, from a key."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.images import keyed
from attention_matching.networks.networks import FeatureNetwork

_CONSTANT = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)  # start as factor 1 and offset 0, whatever is drawn


class FreshNetworks:
    """A family of networks with random weights, of which every key names one.

    One draw fills a buffer, on the network's device, in which the weights lie. Their
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
    >>> from attention_matching.networks.networks import ConvNet
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
        # A weight in another order in memory gets a copy, so that a key names one network in any order.
        self._copied: list[tuple[nn.Parameter, Tensor]] = []
        for part, (parameter, _) in zip(self._flat.split(sizes), drawn, strict=True):
            if parameter.is_contiguous():
                parameter.data = part.view(parameter.shape)
            else:
                self._copied.append((parameter, part.view(parameter.shape)))

    def draw(self, key: Int[Tensor, ""]) -> FeatureNetwork:
        """Draw the network of a key.

        Parameters
        ----------
        key
            See :mod:`attention_matching.images.keyed`; on the network's device.

        Returns
        -------
        FeatureNetwork
            The one network, with the weights of this key until the next draw.
        """
        torch.mul(keyed.uniform(key, len(self._flat)) * 2 - 1, self._bounds, out=self._flat)
        for parameter, part in self._copied:
            parameter.copy_(part)
        return self.network
