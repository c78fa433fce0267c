"""Twin critics as one batched matrix product."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Critics(nn.Module):
    """``count`` critics of the same layers; ``inputs`` is the size of an observation and an action together."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], count: int = 2) -> None:
        super().__init__()
        sizes = (inputs, *hidden, 1)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(count, a, b)) for a, b in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(count, 1, b)) for b in sizes[1:])
        for weights in self.weights:
            for each in weights.data:
                nn.init.xavier_uniform_(each)

    def forward(
        self, observations: Float[Tensor, "n observations"], actions: Float[Tensor, "n actions"]
    ) -> Float[Tensor, "critics n"]:
        """Return the values of every critic."""
        x = torch.cat([observations, actions], dim=1).expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for number, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(biases, x, weights)
            if number < last:
                x = functional.relu_(x)
        return x[:, :, 0]
