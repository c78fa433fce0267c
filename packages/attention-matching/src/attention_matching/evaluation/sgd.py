"""SGD with momentum on the weights of a network as one vector."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from attention_matching.evaluation.config import TrainConfig


class FlatSGD:
    """SGD with momentum and weight decay; the parameters become views of one vector.

    A step is four operations for any network. torch's optimizers take more, and the first step of a process takes
    seconds, for the compiler that they load.
    """

    def __init__(self, parameters: Iterable[Tensor], config: TrainConfig) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._weights = _flat(self._parameters).detach()
        vector_to_parameters(self._weights, self._parameters)
        self._velocity = torch.zeros_like(self._weights)
        self._lr, self._momentum, self._weight_decay = config.lr, config.momentum, config.weight_decay

    def step(self, loss: Tensor) -> None:
        """Take one step down the gradient of a scalar loss."""
        gradient = _flat(torch.autograd.grad(loss, self._parameters, materialize_grads=True))
        gradient.add_(self._weights, alpha=self._weight_decay)
        self._velocity.mul_(self._momentum).add_(gradient)
        self._weights.add_(self._velocity, alpha=-self._lr)

    def divide_lr(self, divisor: float) -> None:
        """Divide the learning rate."""
        self._lr /= divisor


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
