"""An average of weights over the steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from sextet_common.errors import InputError
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

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of an average of the same parameters.

        Raises
        ------
        InputError
            Where names or shapes differ.
        """
        shapes, wanted = ({n: tuple(w.shape) for n, w in found.items()} for found in (weights, self.weights))
        wrong = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        if wrong:
            raise InputError(f"an average that differs in {', '.join(wrong[:3])}", "that of the same parameters")
        self.weights = {name: weights[name].to(tensor) for name, tensor in self.weights.items()}

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Leave the average in the module."""
        for name, parameter in module.named_parameters():
            if name in self.weights:
                parameter.copy_(self.weights[name])
