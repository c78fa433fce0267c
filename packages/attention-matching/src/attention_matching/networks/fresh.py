"""Random networks without building any: one network whose weights are redrawn in place from a key."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.images import keyed
from attention_matching.networks.base import FeatureNetwork

_CONSTANT = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)  # always start with scale 1 and shift 0


class FreshNetworks:
    """Networks with random weights, one for every key of :mod:`attention_matching.images.keyed`.

    One draw fills one buffer, on the network's device, that holds all weights of ``network``, whose parameters no
    longer need gradients. Weights have the distribution of torch's initialisation of convolutions and linear layers:
    uniform within 1 / sqrt(inputs of a unit), weights and biases. Only convolutions, linear layers and normalisations
    may have weights, because the initial state of others is not known here.

    Examples
    --------
    >>> from attention_matching.networks.convnet import ConvNet
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
            parameters = list(module.parameters(recurse=False))
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(module.weight[0].numel())
                drawn += [(parameter, bound) for parameter in parameters]
            elif parameters and not isinstance(module, _CONSTANT):
                raise InputError(
                    f"only convolutions, linear layers and normalisations may have weights that are drawn anew, "
                    f"got a {type(module).__name__} ({name or 'the network'})"
                )
        sizes = [parameter.numel() for parameter, _ in drawn]
        device = drawn[0][0].device
        self._bounds = torch.cat([torch.full((n,), b, device=device) for n, (_, b) in zip(sizes, drawn, strict=True)])
        self._flat = torch.empty(sum(sizes), device=device)
        # Weights in another memory format are copied, so that a key gives the same network in every format.
        self._copied: list[tuple[nn.Parameter, Tensor]] = []
        for weights, (parameter, _) in zip(self._flat.split(sizes), drawn, strict=True):
            if parameter.is_contiguous():
                parameter.data = weights.view(parameter.shape)
            else:
                self._copied.append((parameter, weights.view(parameter.shape)))

    def draw(self, key: Int[Tensor, ""]) -> FeatureNetwork:
        """Return the network with the weights of a key; they last until the next draw."""
        torch.mul(keyed.uniform(key, len(self._flat)) * 2 - 1, self._bounds, out=self._flat)
        for parameter, weights in self._copied:
            parameter.copy_(weights)
        return self.network
