"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from sextet_common.errors import InputError
from torch import Tensor, nn


class EMA:
    """Exponential moving average of parameters, with a warm-up that forgets the initial weights.

    Update n uses the decay min(decay, (n - 1) / (n + 9)), so the first update replaces the initial weights. ``decay``
    is the share of the average that remains at each update, in [0, 1); ``names`` are the averaged parameters, all by
    default.

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
        """Add the current weights to the average."""
        self.weights["updates"] += 1
        updates = float(self.weights["updates"])
        decay = min(self.decay, (updates - 1) / (updates + 9))
        for name, parameter in module.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - decay)

    def load_state(self, weights: Mapping[str, Tensor]) -> None:
        """Restore `weights`, an average of the same parameters."""
        received, expected = ({n: tuple(w.shape) for n, w in state.items()} for state in (weights, self.weights))
        names = received.keys() | expected.keys()
        wrong = sorted(name for name in names if received.get(name) != expected.get(name))
        if wrong:
            raise InputError(f"an average that differs in {', '.join(wrong[:3])}", "one of the same parameters")
        self.weights = {name: weights[name].to(tensor) for name, tensor in self.weights.items()}

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Replace the parameters of the module by their average."""
        for name, parameter in module.named_parameters():
            if name in self.weights:
                parameter.copy_(self.weights[name])
