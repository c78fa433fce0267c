"""What the training loop moves: one network, or several of one kind at once with stacked weights.

A small network on a small set leaves a GPU waiting for its next launch; ten of them as
one take as many launches as one alone.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import vector_to_parameters

if TYPE_CHECKING:
    from attention_matching.evaluation.training import TrainConfig

_MOST = 10  # networks at once on a GPU
_FULL = 2**18  # pixels of a step that fill a GPU: 256 images of 32x32


class Learner(ABC):
    """Networks that make their gradient steps together, each on its own batch.

    Parameters
    ----------
    networks
        The networks, on one device.
    parameters
        What SGD moves.
    config
        The settings of SGD.
    """

    def __init__(self, networks: Sequence[nn.Module], parameters: Iterable[Tensor], config: TrainConfig) -> None:
        self._networks = [network.train() for network in networks]
        self._moved = [parameter for parameter in parameters if parameter.requires_grad]
        # All weights lie in one vector, so that a step of SGD is four operations for any network. torch's own
        # optimisers take more, and seconds at a process's first step, for the compiler that they load.
        self._weights = _flat(self._moved).detach()
        vector_to_parameters(self._weights, self._moved)
        self._velocity = torch.zeros_like(self._weights)
        self._lr, self._momentum, self._weight_decay = config.lr, config.momentum, config.weight_decay

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """Make one gradient step of every network.

        Parameters
        ----------
        images
            Shape (networks, batch, channels, height, width).
        targets
            Class numbers, shape (networks, batch), or probabilities, (networks, batch, classes).

        Returns
        -------
        Tensor
            The losses before the step, shape (networks,), on the device.
        """
        losses = self.losses(images, targets)
        gradient = _flat(torch.autograd.grad(losses.sum(), self._moved, materialize_grads=True))
        gradient.add_(self._weights, alpha=self._weight_decay)
        self._velocity.mul_(self._momentum).add_(gradient)
        self._weights.add_(self._velocity, alpha=-self._lr)
        return losses.detach()

    @abstractmethod
    def losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross entropy of every network on its batch, shape (networks,)."""

    def slow_down(self) -> None:
        """Go on with a tenth of the learning rate."""
        self._lr /= 10

    def networks(self) -> list[nn.Module]:
        """Return the networks with their present weights."""
        return self._networks


class Single(Learner):
    """One network by itself.

    Parameters
    ----------
    network
        The network, on its device.
    config
        The settings of SGD.
    """

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        super().__init__([network], network.parameters(), config)

    def losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross entropy, shape (1,)."""
        return functional.cross_entropy(self._networks[0](images[0]), targets[0])[None]


class Stack(Learner):
    """Networks of one architecture as one.

    ``torch.func.vmap`` turns their convolutions into grouped ones; SGD on the stacked weights
    is for each network the SGD of its own. The result is that of training them one by one,
    up to the rounding of another order of summation.

    Parameters
    ----------
    networks
        Equal but for their weights, on one device.
    config
        The settings of SGD.
    """

    def __init__(self, networks: Sequence[nn.Module], config: TrainConfig) -> None:
        self._form = copy.deepcopy(networks[0]).train().to("meta")  # the computation without the weights
        self._parameters, self._buffers = stack_module_state([network.train() for network in networks])
        super().__init__(networks, self._parameters.values(), config)

    def losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross entropy of every network on its batch, shape (networks,)."""
        # Of the ways to compute attention, only the one by matrix products has a batched form everywhere.
        with sdpa_kernel(SDPBackend.MATH):
            losses: Tensor = vmap(self._loss)(self._parameters, self._buffers, images, targets)
        return losses

    def networks(self) -> list[nn.Module]:
        """Return the networks, after their weights were copied back from the stack."""
        stacked = {**self._parameters, **self._buffers}
        with torch.no_grad():
            for number, network in enumerate(self._networks):
                for name, value in (*network.named_parameters(), *network.named_buffers()):
                    value.copy_(stacked[name][number])
        return self._networks

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(self._form, (parameters, buffers), (x,)), y)


def learner_of(networks: Sequence[nn.Module], config: TrainConfig) -> Learner:
    """Return the learner of one network or of several."""
    return Single(networks[0], config) if len(networks) == 1 else Stack(networks, config)


def group_size(network: nn.Module, shape: Sequence[int], config: TrainConfig, where: torch.device) -> int:
    """Choose how many networks are trained at once.

    Parameters
    ----------
    network
        One of them.
    shape
        Images, channels, height and width of the set they are trained on.
    config
        Its ``together``, where given, is obeyed.
    where
        The device.

    Returns
    -------
    int
        At least 1. Networks that ``torch.func.vmap`` cannot run are trained one by one: those
        with dropout, or whose control flow depends on values. Otherwise, where ``together`` is
        None: on a CPU one, since benchmarks/bench_evaluate.py found more at once to be slower
        there, but for the very smallest sets. On a GPU up to ten, and fewer where fewer fill
        the device: an estimate that has not been measured.

    Warns
    -----
    UserWarning
        Where ``together`` asks for more than one and that is not possible.

    Examples
    --------
    >>> from attention_matching.networks.convnet import ConvNet
    >>> from attention_matching.evaluation.training import TrainConfig
    >>> network, cpu = ConvNet((1, 8, 8), 10, width=8), torch.device("cpu")
    >>> group_size(network, (10, 1, 8, 8), TrainConfig(), cpu)
    1
    >>> group_size(network, (10, 1, 8, 8), TrainConfig(together=5), cpu)
    5
    """
    images, _, height, width = shape
    if config.together is None:
        if where.type == "cpu":
            return 1
        size = max(1, min(_MOST, _FULL // (min(images, config.batch) * height * width)))
    else:
        size = config.together
    if size > 1 and not _stackable(network, shape[1:], where):
        if config.together is not None:
            warnings.warn("these networks cannot be trained together: they are trained one by one", stacklevel=3)
        return 1
    return size


def _stackable(network: nn.Module, image_shape: Sequence[int], where: torch.device) -> bool:
    """Try a forward pass of two copies at once."""
    copies = [copy.deepcopy(network).train() for _ in range(2)]
    state = stack_module_state(copies)
    images = torch.zeros(2, 2, *image_shape, device=where)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            vmap(lambda state, x: functional_call(copies[0], state, (x,)))(state, images)
    except RuntimeError:
        return False
    return True


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
