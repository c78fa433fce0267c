"""Learners: one network, or several of one architecture with stacked weights.

A small network on a small set leaves a GPU waiting for its next launch; ten of them stacked take as many launches as
one.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_matching.evaluation.config import TrainConfig
from attention_matching.evaluation.sgd import FlatSGD

_MOST = 10  # networks at once on a GPU
_FULL = 2**18  # pixels of a step that fill a GPU: 256 images of 32x32


class Learner(ABC):
    """Networks on one device that take their gradient steps together, each on its own batch."""

    def __init__(self, networks: Sequence[nn.Module], parameters: Iterable[Tensor], config: TrainConfig) -> None:
        self._networks = [network.train() for network in networks]
        self._sgd = FlatSGD(parameters, config)

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """Take one gradient step of every network and return the losses before it, shape (networks,).

        Images have shape (networks, batch, channels, height, width). Targets are class numbers, shape (networks,
        batch), or probabilities, (networks, batch, classes).
        """
        losses = self.losses(images, targets)
        self._sgd.step(losses.sum())
        return losses.detach()

    @abstractmethod
    def losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross entropy of every network on its batch, shape (networks,)."""

    def divide_lr(self, divisor: float) -> None:
        """Divide the learning rate."""
        self._sgd.divide_lr(divisor)

    def networks(self) -> list[nn.Module]:
        """Return the networks with their current weights."""
        return self._networks


class Single(Learner):
    """One network."""

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        super().__init__([network], network.parameters(), config)

    def losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross entropy, shape (1,)."""
        return functional.cross_entropy(self._networks[0](images[0]), targets[0])[None]


class Stack(Learner):
    """Networks of one architecture, stacked.

    ``torch.func.vmap`` turns their convolutions into grouped ones, and SGD on the stacked weights is each network's
    own SGD. The result is that of training them one by one, up to rounding.
    """

    def __init__(self, networks: Sequence[nn.Module], config: TrainConfig) -> None:
        self._skeleton = copy.deepcopy(networks[0]).train().to("meta")  # the computation without the weights
        self._parameters, self._buffers = stack_module_state([network.train() for network in networks])
        super().__init__(networks, self._parameters.values(), config)

    def losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross entropy of every network on its batch, shape (networks,)."""
        # Of the attention kernels only the one by matrix products has a batched form on every device.
        with sdpa_kernel(SDPBackend.MATH):
            losses: Tensor = vmap(self._loss)(self._parameters, self._buffers, images, targets)
        return losses

    def networks(self) -> list[nn.Module]:
        """Copy the weights back from the stack and return the networks."""
        stacked = {**self._parameters, **self._buffers}
        with torch.no_grad():
            for number, network in enumerate(self._networks):
                for name, value in (*network.named_parameters(), *network.named_buffers()):
                    value.copy_(stacked[name][number])
        return self._networks

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(self._skeleton, (parameters, buffers), (x,)), y)


def learner_of(networks: Sequence[nn.Module], config: TrainConfig) -> Learner:
    """Return the learner of one network or of several."""
    return Single(networks[0], config) if len(networks) == 1 else Stack(networks, config)


def group_size(network: nn.Module, shape: Sequence[int], config: TrainConfig, device: torch.device) -> int:
    """Choose how many networks to train at once.

    ``config.together``, if given. Otherwise a CPU trains one at a time, since benchmarks/bench_evaluate.py measures
    stacks to be slower there except on the smallest sets, and a GPU up to ten: fewer where fewer fill it, an estimate
    that has not been measured. Networks that ``torch.func.vmap`` cannot run (dropout, control flow that depends on
    values) are trained one by one, with a warning if ``config.together`` asks for more. ``shape`` is that of the
    training set: images, channels, height and width.

    Examples
    --------
    >>> from attention_matching.networks.convnet import ConvNet
    >>> network, cpu = ConvNet((1, 8, 8), 10, width=8), torch.device("cpu")
    >>> group_size(network, (10, 1, 8, 8), TrainConfig(), cpu)
    1
    >>> group_size(network, (10, 1, 8, 8), TrainConfig(together=5), cpu)
    5
    """
    images, _, height, width = shape
    if config.together is None:
        if device.type == "cpu":
            return 1
        size = max(1, min(_MOST, _FULL // (min(images, config.batch) * height * width)))
    else:
        size = config.together
    if size > 1 and not _stackable(network, shape[1:], device):
        if config.together is not None:
            warnings.warn("these networks cannot be trained together: they are trained one by one", stacklevel=3)
        return 1
    return size


def _stackable(network: nn.Module, image_shape: Sequence[int], device: torch.device) -> bool:
    """Try a forward pass of two stacked copies."""
    copies = [copy.deepcopy(network).train() for _ in range(2)]
    state = stack_module_state(copies)
    images = torch.zeros(2, 2, *image_shape, device=device)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            vmap(lambda state, x: functional_call(copies[0], state, (x,)))(state, images)
    except RuntimeError:
        return False
    return True
