"""The tanh-Gaussian policy of soft actor-critic: a torch module, and its exploration in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from esac.play.policy import ActionMap, PolicyShape, action_map

_LOG_STD_RANGE = (-20.0, 2.0)
_EPSILON = 1e-6  # keeps the logarithm of the squashing's derivative finite


class Actor(nn.Module):
    """Tanh-Gaussian policy whose layers up to the mean are those of `PolicyShape`.

    ``action`` says how deterministic actions follow from the mean; sampled actions are always squashed.
    """

    scale: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, shape: PolicyShape, low: np.ndarray, high: np.ndarray, action: ActionMap = "tanh") -> None:
        super().__init__()
        self.shape, self.action = shape, action
        *hidden, (actions, last) = shape.layers
        self.hidden = nn.ModuleList(nn.Linear(columns, rows) for rows, columns in hidden)
        self.mean, self.log_std = nn.Linear(last, actions), nn.Linear(last, actions)
        for layer in (*self.hidden, self.mean, self.log_std):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        scale, bias = action_map(low, high)
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("bias", torch.tensor(bias))
        for name, end in (("low", low), ("high", high)):
            self.register_buffer(name, torch.tensor(np.asarray(end, np.float32)), persistent=False)

    def forward(self, observations: Float[Tensor, "n observations"]) -> Float[Tensor, "n actions"]:
        """Return the deterministic actions in the environment's units."""
        mean, _ = self.distribution(observations)
        if self.action == "clip":
            return mean.clamp(-1, 1).clamp(self.low, self.high)
        inside = torch.tanh(mean) if self.action == "tanh" else mean.clamp(-1, 1)
        return inside * self.scale + self.bias

    def sample(
        self, observations: Float[Tensor, "n observations"], noise: Float[Tensor, "n actions"]
    ) -> tuple[Float[Tensor, "n actions"], Float[Tensor, " n"]]:
        """Return the actions in [-1, 1] for given standard normal noise, and their log-probability densities."""
        mean, log_std = self.distribution(observations)
        squashed = torch.tanh(mean + log_std.exp() * noise)
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_prob = log_prob - torch.log(1 - squashed.square() + _EPSILON)
        return squashed, log_prob.sum(dim=1)

    def vector(self) -> Float[np.ndarray, " size"]:
        """Return the layers up to the mean as one vector in the layout of `PolicyShape`."""
        parts = [part.detach().cpu().flatten() for layer in self._layers() for part in (layer.weight, layer.bias)]
        vector: np.ndarray = torch.cat(parts).float().numpy()
        return vector

    @torch.no_grad()
    def load_vector(self, vector: Float[np.ndarray, " size"]) -> None:
        """Set the layers up to the mean."""
        for layer, (weights, biases) in zip(self._layers(), self.shape.parts(vector), strict=True):
            layer.weight.copy_(torch.tensor(weights))
            layer.bias.copy_(torch.tensor(biases))

    def distribution(
        self, observations: Float[Tensor, "n observations"]
    ) -> tuple[Float[Tensor, "n actions"], Float[Tensor, "n actions"]]:
        """Return the mean and the log standard deviation of the Gaussian before squashing."""
        x = observations
        for layer in self.hidden:
            x = functional.relu_(layer(x))  # in place: half the memory traffic of these layers
        return self.mean(x), self.log_std(x).clamp(*_LOG_STD_RANGE)

    def _layers(self) -> list[Any]:
        return [*self.hidden, self.mean]


class Normalise(nn.Module):
    """``(observations - offset) * scale``."""

    inputs: Tensor

    def __init__(self, inputs: Float[np.ndarray, "2 observations"]) -> None:
        super().__init__()
        self.register_buffer("inputs", torch.tensor(inputs))

    def forward(self, observations: Float[Tensor, "n observations"]) -> Float[Tensor, "n observations"]:
        """Return the normalised observations."""
        return (observations - self.inputs[0]) * self.inputs[1]


class Explorer:
    """Sampled actions of an actor in NumPy, on the module's own memory: an environment step needs no torch call.

    On the CPU, changes of the actor are visible at once; on other devices `refresh` copies them.
    """

    def __init__(self, actor: Actor) -> None:
        self._layers = [*actor.hidden, actor.mean, actor.log_std]
        self._read()

    def refresh(self) -> None:
        """Read the parameters again where they are not on the CPU."""
        if self._layers[0].weight.device.type != "cpu":
            self._read()

    def _read(self) -> None:
        self._parameters = [(x.weight.detach().cpu().numpy(), x.bias.detach().cpu().numpy()) for x in self._layers]

    def __call__(
        self, observations: Float[np.ndarray, "*n observations"], noise: Float[np.ndarray, "*n actions"]
    ) -> Float[np.ndarray, "*n actions"]:
        """Return the actions in [-1, 1] for given standard normal noise."""
        x = np.asarray(observations, dtype=np.float32)
        *hidden, (mean, mean_bias), (log_std, log_std_bias) = self._parameters
        for weights, biases in hidden:
            x = np.maximum(x @ weights.T + biases, 0)
        std = np.exp(np.clip(x @ log_std.T + log_std_bias, *_LOG_STD_RANGE))
        actions: np.ndarray = np.tanh(x @ mean.T + mean_bias + std * noise)
        return actions
