"""An average of weights over the steps, and optimizers' states as named tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class EMA:
    """An exponential average of the parameters that learn; early steps weigh less, so that it begins nowhere.

    Parameters
    ----------
    module
        What is averaged.
    decay
        How much of the average stays at each step, in [0, 1).
    names
        The parameters that are averaged: all where not given.

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> average = EMA(layer, 0.9)
    >>> average.update(layer)
    >>> bool((average.weights["weight"] == layer.weight).all())
    True
    """

    def __init__(self, module: nn.Module, decay: float, names: Iterable[str] | None = None) -> None:
        self.decay = decay
        chosen = set(dict(module.named_parameters()) if names is None else names)
        self.weights = {n: p.detach().clone() for n, p in module.named_parameters() if n in chosen}
        self.weights["updates"] = torch.zeros(())

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take a step's weights into the average."""
        self.weights["updates"] += 1
        updates = float(self.weights["updates"])
        decay = min(self.decay, (updates - 1) / (updates + 9))
        for name, parameter in module.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Leave the average in the module."""
        for name, parameter in module.named_parameters():
            if name in self.weights:
                parameter.copy_(self.weights[name])


def optimizer_state(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors whose names begin with a prefix."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{number}.{key}": torch.as_tensor(value)
        for number, values in state.items()
        for key, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, arrays: dict[str, Tensor], prefix: str) -> None:
    """Take what `optimizer_state` returned."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for name, tensor in arrays.items():
        if name.startswith(f"{prefix}."):
            number, key = name[len(prefix) + 1 :].split(".", 1)
            whole["state"].setdefault(int(number), {})[key] = tensor.cpu() if key == "step" else tensor
    optimizer.load_state_dict(whole)
