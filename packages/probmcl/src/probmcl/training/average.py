"""An exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The moving average of all floating-point weights and buffers, batch statistics too.

    The decay is at most (1 + n) / (10 + n) after n steps, so that the first weights are soon forgotten.

    Examples
    --------
    >>> network = nn.Linear(1, 1)
    >>> average = Average(network, 0.5)
    >>> with torch.no_grad():
    ...     _ = network.weight.fill_(1.0)
    >>> average.values["weight"].fill_(0.0)
    tensor([[0.]])
    >>> average.update(network, 1000)
    >>> average.values["weight"]
    tensor([[0.5000]])
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: tensor.clone() for name, tensor in _floats(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module, steps: int) -> None:
        """Move towards the network's weights after a step; ``steps`` were taken before it."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.values.values()), list(_floats(network).values()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Give the network the averaged weights."""
        for name, tensor in _floats(network).items():
            tensor.copy_(self.values[name])

    def state(self) -> dict[str, Tensor]:
        """Return the averaged weights by name."""
        return {f"average.{name}": tensor for name, tensor in self.values.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, tensor in self.values.items():
            tensor.copy_(state[f"average.{name}"])


def _floats(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
