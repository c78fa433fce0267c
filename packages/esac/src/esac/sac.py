"""Soft actor-critic: tanh-Gaussian policy, twin critics as one batched product, a temperature that may tune itself."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import optimizers
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from esac.policy import ActionMap, PolicyShape, action_map
from esac.replay import Batch

_LOG_STD = (-20.0, 2.0)
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic's settings; the defaults are the paper's public code's."""

    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """How much of the critics goes into their slow copies at each update."""
    lr: float = 3e-4
    """Adam's learning rate of policy, critics and temperature."""
    alpha: float = 0.2
    """Temperature; where it tunes itself, what it begins with."""
    auto_alpha: bool = False
    """Tune the temperature, so that the entropy is minus the number of actions."""
    batch_size: int = 256
    """Transitions in an update."""
    capacity: int = 1_000_000
    """Transitions that are kept."""
    compile: bool = False
    """Compile the losses by torch.compile."""

    def __post_init__(self) -> None:
        for name, low, high in (("gamma", 0.0, 1.0), ("tau", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}", "a number in [0, 1]")
        for name in ("lr", "alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}", "a number > 0")
        for name in ("batch_size", "capacity"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")


class Actor(nn.Module):
    """The tanh-Gaussian policy; the layers up to the mean are those of `PolicyShape`.

    Parameters
    ----------
    shape
        Its layout.
    low, high
        Ends of the actions.
    action
        How the deterministic actions follow from the mean; those that are sampled are squashed always.
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
        """Return the deterministic actions."""
        mean, _ = self._both(observations)
        actions: Tensor = torch.tanh(mean) * self.scale + self.bias
        return actions if self.action == "tanh" else mean.clamp(-1, 1).clamp(self.low, self.high)

    def sample(
        self, observations: Float[Tensor, "n observations"], noise: Float[Tensor, "n actions"]
    ) -> tuple[Float[Tensor, "n actions"], Float[Tensor, " n"]]:
        """Return actions of given standard normal noise, and their log densities."""
        mean, log_std = self._both(observations)
        before = mean + log_std.exp() * noise
        squashed = torch.tanh(before)
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        density = density - torch.log(self.scale * (1 - squashed.square()) + _EPSILON)
        return squashed * self.scale + self.bias, density.sum(dim=1)

    def vector(self) -> Float[np.ndarray, " size"]:
        """Return the layers up to the mean as one vector, as `PolicyShape` has it."""
        layers = [*self.hidden, self.mean]
        parts = [part.detach().cpu().flatten() for layer in layers for part in (layer.weight, layer.bias)]
        found: np.ndarray = torch.cat(parts).float().numpy()
        return found

    @torch.no_grad()
    def take(self, vector: Float[np.ndarray, " size"]) -> None:
        """Take such a vector."""
        for layer, (weights, biases) in zip([*self.hidden, self.mean], self.shape.parts(vector), strict=True):
            layer.weight.copy_(torch.tensor(weights))
            layer.bias.copy_(torch.tensor(biases))

    def _both(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        x = observations
        for layer in self.hidden:
            x = functional.relu_(layer(x))  # in place: half the memory traffic of these layers
        return self.mean(x), self.log_std(x).clamp(*_LOG_STD)


class Explorer:
    """The actions by which a policy explores, by NumPy on the module's own numbers: a step costs no torch call.

    Parameters
    ----------
    actor
        The policy, on any device; what it learns is seen at once on the CPU, and elsewhere after `refresh`.
    """

    def __init__(self, actor: Actor) -> None:
        self._layers = [*actor.hidden, actor.mean, actor.log_std]
        self.scale, self.bias = actor.scale.cpu().numpy(), actor.bias.cpu().numpy()
        self.refresh()

    def refresh(self) -> None:
        """Read the numbers again, where the module is not on the CPU."""
        self._numbers = [(x.weight.detach().cpu().numpy(), x.bias.detach().cpu().numpy()) for x in self._layers]

    def __call__(
        self, observation: Float[np.ndarray, " observations"], noise: Float[np.ndarray, " actions"]
    ) -> Float[np.ndarray, " actions"]:
        """Return the action of given standard normal noise."""
        x = np.asarray(observation, dtype=np.float32)
        *hidden, (mean, mean_bias), (deviation, deviation_bias) = self._numbers
        for weights, biases in hidden:
            x = np.maximum(weights @ x + biases, 0)
        log_std = np.clip(deviation @ x + deviation_bias, *_LOG_STD)
        action: np.ndarray = np.tanh(mean @ x + mean_bias + np.exp(log_std) * noise) * self.scale + self.bias
        return action


class Critics(nn.Module):
    """Several critics as one batched product.

    Parameters
    ----------
    inputs
        Numbers of an observation and an action together.
    hidden
        Units of the hidden layers.
    count
        How many critics.
    """

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
        """Return every critic's values."""
        x = torch.cat([observations, actions], dim=1).expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for number, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(biases, x, weights)
            if number < last:
                x = functional.relu_(x)
        return x[:, :, 0]


class SAC:
    """Policy, critics and temperature with their optimizers, and one update of all.

    Parameters
    ----------
    shape
        The policy's layout; the critics have the same hidden layers.
    low, high
        Ends of the actions.
    config
        The settings.
    where
        The device.

    References
    ----------
    Soft actor-critic algorithms and applications, arXiv 1812.05905.
    """

    def __init__(
        self,
        shape: PolicyShape,
        low: np.ndarray,
        high: np.ndarray,
        config: SACConfig,
        where: torch.device | str = "cpu",
    ) -> None:
        self.config, self.where = config, torch.device(where)
        self.actor = Actor(shape, low, high).to(where)
        self.critics = Critics(shape.observations + shape.actions, shape.hidden).to(where)
        self.slow = Critics(shape.observations + shape.actions, shape.hidden).to(where).requires_grad_(False)
        self.slow.load_state_dict(self.critics.state_dict())
        self.log_alpha = torch.tensor(math.log(config.alpha), device=where, requires_grad=config.auto_alpha)
        self.wanted_entropy = -float(shape.actions)
        fused = self.where.type in ("cpu", "cuda")
        self.of_actor = torch.optim.Adam(self.actor.parameters(), config.lr, fused=fused)
        self.of_critics = torch.optim.Adam(self.critics.parameters(), config.lr, fused=fused)
        self.of_alpha = torch.optim.Adam([self.log_alpha], config.lr) if config.auto_alpha else None
        self._critic_loss = torch.compile(self.critic_loss) if config.compile else self.critic_loss
        self._actor_loss = torch.compile(self.actor_loss) if config.compile else self.actor_loss

    def critic_loss(self, batch: Batch, noise: Float[Tensor, "n actions"]) -> Tensor:
        """Compute the critics' loss: the sum of both mean squared errors."""
        with torch.no_grad():
            actions, density = self.actor.sample(batch.following, noise)
            values = self.slow(batch.following, actions).amin(dim=0) - self.log_alpha.exp() * density
            wanted = batch.rewards + self.config.gamma * batch.mask * values
        errors = (self.critics(batch.observations, batch.actions) - wanted).square()
        loss: Tensor = errors.mean(dim=1).sum()
        return loss

    def actor_loss(self, batch: Batch, noise: Float[Tensor, "n actions"]) -> tuple[Tensor, Tensor]:
        """Compute the policy's loss, and the mean log density."""
        actions, density = self.actor.sample(batch.observations, noise)
        values = self.critics(batch.observations, actions).amin(dim=0)
        return (self.log_alpha.detach().exp() * density - values).mean(), density.mean()

    def update(self, batch: Batch, noise: Float[Tensor, "2 n actions"]) -> dict[str, Tensor]:
        """Move critics, policy, temperature and slow critics once.

        Parameters
        ----------
        batch
            Transitions.
        noise
            Standard normal, for the actions that follow and for those of the policy's loss.

        Returns
        -------
        dict
            Losses, the temperature and the entropy, on the device.
        """
        loss = self._critic_loss(batch, noise[0])
        self.of_critics.zero_grad(set_to_none=True)
        loss.backward()
        self.of_critics.step()
        self.critics.requires_grad_(False)
        policy, density = self._actor_loss(batch, noise[1])
        self.of_actor.zero_grad(set_to_none=True)
        policy.backward()
        self.of_actor.step()
        self.critics.requires_grad_(True)
        if self.of_alpha is not None:
            tune = -self.log_alpha * (density.detach() + self.wanted_entropy)
            self.of_alpha.zero_grad(set_to_none=True)
            tune.backward()
            self.of_alpha.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.slow.parameters()), list(self.critics.parameters()), self.config.tau)
        return {
            "critic_loss": loss.detach(), "actor_loss": policy.detach(), "entropy": -density.detach(),
            "alpha": self.log_alpha.detach().exp(),
        }  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return all weights and the optimizers' memory, by name."""
        arrays = {"log_alpha": self.log_alpha.detach()}
        for name, module in self._modules().items():
            arrays |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            arrays |= optimizers.state(optimizer, name)
        return arrays

    def load(self, arrays: dict[str, Tensor]) -> None:
        """Take such a state."""
        for name, module in self._modules().items():
            module.load_state_dict(_under(arrays, name))
        with torch.no_grad():
            self.log_alpha.copy_(arrays["log_alpha"].reshape(()))
        for name, optimizer in self._optimizers().items():
            optimizers.restore(optimizer, arrays, name)

    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "critics": self.critics, "slow": self.slow}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        found = {"of_actor": self.of_actor, "of_critics": self.of_critics, "of_alpha": self.of_alpha}
        return {name: optimizer for name, optimizer in found.items() if optimizer is not None}


def _under(arrays: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the arrays whose names begin with one, without it."""
    return {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{name}.")}
