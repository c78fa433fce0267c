"""Losses of soft actor-critic, and one update of policy, critics and temperature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import optimizers
from torch import Tensor, nn

from esac.play.policy import PolicyShape
from esac.sac.actor import Actor
from esac.sac.config import SACConfig
from esac.sac.critic import Critics
from esac.sac.replay import Batch

_RENAMED = {
    "slow": "target_critics", "wanted_entropy": "target_entropy", "of_actor": "actor_optimizer",
    "of_critics": "critic_optimizer", "of_alpha": "alpha_optimizer", "where": "device", "load": "load_state",
}  # fmt: skip


class SAC:
    """Policy, critics and temperature with their optimizers.

    Parameters
    ----------
    shape
        Layout of the policy; the critics have the same hidden layers.
    low, high
        Bounds of the actions, shape (actions,).

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
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.device = config, torch.device(device)
        inputs = shape.observations + shape.actions
        self.actor = Actor(shape, low, high).to(device)
        self.critics = Critics(inputs, shape.hidden).to(device)
        self.target_critics = Critics(inputs, shape.hidden).to(device).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.log_alpha = torch.tensor(math.log(config.alpha), device=device, requires_grad=config.auto_alpha)
        self.target_entropy = -float(shape.actions)
        fused = self.device.type in ("cpu", "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), config.lr, fused=fused)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), config.lr, fused=fused)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], config.lr) if config.auto_alpha else None
        self._critic_loss = torch.compile(self.critic_loss) if config.compile else self.critic_loss
        self._actor_loss = torch.compile(self.actor_loss) if config.compile else self.actor_loss

    def __getattr__(self, name: str) -> Any:
        if name not in _RENAMED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warnings.warn(f"SAC.{name} is now SAC.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        return getattr(self, _RENAMED[name])

    def critic_loss(self, batch: Batch, noise: Float[Tensor, "n actions"]) -> Tensor:
        """Return the sum of the mean squared errors of both critics."""
        with torch.no_grad():
            actions, log_prob = self.actor.sample(batch.next_observations, noise)
            next_values = self.target_critics(batch.next_observations, actions).amin(dim=0)
            next_values = next_values - self.log_alpha.exp() * log_prob
            targets = batch.rewards + self.config.gamma * batch.mask * next_values
        errors = (self.critics(batch.observations, batch.actions) - targets).square()
        loss: Tensor = errors.mean(dim=1).sum()
        return loss

    def actor_loss(self, batch: Batch, noise: Float[Tensor, "n actions"]) -> tuple[Tensor, Tensor]:
        """Return the loss of the policy, and the mean log-probability of its actions."""
        actions, log_prob = self.actor.sample(batch.observations, noise)
        values = self.critics(batch.observations, actions).amin(dim=0)
        return (self.log_alpha.detach().exp() * log_prob - values).mean(), log_prob.mean()

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        """Return the loss of the temperature: its gradient is positive while the entropy exceeds the target."""
        return -self.log_alpha * (log_prob.detach() + self.target_entropy)

    def update(self, batch: Batch, noise: Float[Tensor, "2 n actions"]) -> dict[str, Tensor]:
        """Update critics, policy, temperature and target critics once.

        ``noise`` is standard normal: for the next actions, and for the actions of the policy's loss. Returns losses,
        temperature and entropy as tensors on the device.
        """
        critic_loss = self._critic_loss(batch, noise[0])
        _descend(self.critic_optimizer, critic_loss)
        self.critics.requires_grad_(False)
        actor_loss, log_prob = self._actor_loss(batch, noise[1])
        _descend(self.actor_optimizer, actor_loss)
        self.critics.requires_grad_(True)
        if self.alpha_optimizer is not None:
            _descend(self.alpha_optimizer, self.alpha_loss(log_prob))
        with torch.no_grad():
            targets, sources = self.target_critics.parameters(), self.critics.parameters()
            torch._foreach_lerp_(list(targets), list(sources), self.config.tau)
        return {
            "critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach(), "entropy": -log_prob.detach(),
            "alpha": self.log_alpha.detach().exp(),
        }  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return the weights and the state of the optimizers by name."""
        arrays = {"log_alpha": self.log_alpha.detach()}
        for name, module in self._modules().items():
            arrays |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            arrays |= optimizers.state(optimizer, name)
        return arrays

    def load_state(self, arrays: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for name, module in self._modules().items():
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})
        with torch.no_grad():
            self.log_alpha.copy_(arrays["log_alpha"].reshape(()))
        for name, optimizer in self._optimizers().items():
            optimizers.restore(optimizer, dict(arrays), name)

    # The names in files are older than those of the attributes.
    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "critics": self.critics, "slow": self.target_critics}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        named = {
            "of_actor": self.actor_optimizer,
            "of_critics": self.critic_optimizer,
            "of_alpha": self.alpha_optimizer,
        }
        return {name: optimizer for name, optimizer in named.items() if optimizer is not None}


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
