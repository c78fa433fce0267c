"""Optimizers of torch: AdamW with decay on matrices, a learning-rate schedule, and their state in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

from sextet_common.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import AdamW, Optimizer
    from torch.optim.lr_scheduler import LambdaLR

_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_KEPT: dict[str, Set[str]] = {"Adam": _ADAM, "AdamW": _ADAM, "SGD": {"momentum_buffer"}}


def adamw(parameters: Iterable[Parameter], lr: float, weight_decay: float) -> AdamW:
    """Return AdamW that decays matrices and kernels, but not biases and the weights of normalisations."""
    require("torch", package="sextet-common", extra="torch")
    import torch

    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: float, *, done: int = 0) -> LambdaLR:
    """Return a schedule that raises the learning rate linearly, then lowers it along half a cosine towards 0.

    The groups' ``lr`` are the highest rates. The rate rises in the share ``warmup`` of the steps, at least one step.
    ``done`` are the steps of an earlier, interrupted run.

    Examples
    --------
    >>> import torch
    >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> schedule = warmup_cosine(sgd, steps=6, warmup=1 / 3)
    >>> for _ in range(6):
    ...     print(round(schedule.get_last_lr()[0], 3), end=" "); sgd.step(); schedule.step()
    0.5 1.0 0.905 0.655 0.345 0.095
    """
    from torch.optim.lr_scheduler import LambdaLR

    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / max(1, steps - rising + 1)))

    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])  # what LambdaLR wants where it does not start at 0
    return LambdaLR(optimizer, factor, last_epoch=done - 1)


def state(optimizer: Optimizer, prefix: str = "optimizer") -> dict[str, Tensor]:
    """Return the state of an optimizer as tensors named ``PREFIX.NUMBER.KEY``, by the numbers of its parameters.

    Examples
    --------
    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> adam = torch.optim.Adam([weight])
    >>> weight.sum().backward(); adam.step()
    >>> sorted(state(adam))
    ['optimizer.0.exp_avg', 'optimizer.0.exp_avg_sq', 'optimizer.0.step']
    """
    import torch

    return {
        f"{prefix}.{number}.{key}": torch.as_tensor(value)
        for number, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }


def restore(optimizer: Optimizer, arrays: Mapping[str, Tensor], prefix: str = "optimizer") -> None:
    """Restore what `state` returned of an optimizer of the same parameters; names without the prefix are ignored.

    Tensors of another shape are refused, and for Adam, AdamW and SGD any but those that these keep.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    loaded: dict[int, dict[str, Any]] = {}
    for name, tensor in arrays.items():
        if not name.startswith(f"{prefix}."):
            continue
        number, _, key = name.removeprefix(f"{prefix}.").partition(".")
        if not (number.isdecimal() and int(number) < len(parameters)):
            raise InputError(f"{name} in the state of an optimizer", f"numbers of its {len(parameters)} parameters")
        shape, whose = ((), "a number") if key == "step" else (tuple(parameters[int(number)].shape), "its parameter")
        if tensor.shape != shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)}", f"{shape}, as {whose}")
        if key == "step" and not 0 <= float(tensor) < math.inf:
            raise InputError(f"{name} is {float(tensor)}", "one finite number >= 0")
        # The number of steps stays on the CPU, where the optimizer counts.
        loaded.setdefault(int(number), {})[key] = tensor.cpu() if key == "step" else tensor
    kind = type(optimizer).__name__
    for n, values in sorted(loaded.items()):
        kept = _KEPT.get(kind, values.keys())
        if values.keys() != kept:
            raise InputError(f"{prefix}.{n} has {', '.join(sorted(values))}", f"{', '.join(sorted(kept))} as {kind}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": loaded})
