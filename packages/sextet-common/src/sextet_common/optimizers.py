"""An optimizer's memory as named tensors for a checkpoint, and back, held against the optimizer first."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from sextet_common.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_KEPT: dict[str, Set[str]] = {"Adam": _ADAM, "AdamW": _ADAM, "SGD": {"momentum_buffer"}}


def state(optimizer: Optimizer, prefix: str = "optimizer") -> dict[str, Tensor]:
    """Return what an optimizer remembers.

    Parameters
    ----------
    optimizer
        Of torch.
    prefix
        What the names begin with.

    Returns
    -------
    dict
        Tensors by ``PREFIX.NUMBER.KEY``, the numbers being those of the parameters; none before the first step.

    Examples
    --------
    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> adam = torch.optim.Adam([weight])
    >>> weight.sum().backward(); adam.step()
    >>> sorted(state(adam))
    ['optimizer.0.exp_avg', 'optimizer.0.exp_avg_sq', 'optimizer.0.step']
    """
    require("torch", package="sextet-common", extra="torch")
    import torch

    return {
        f"{prefix}.{number}.{key}": torch.as_tensor(value)
        for number, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }


def restore(optimizer: Optimizer, arrays: Mapping[str, Tensor], prefix: str = "optimizer") -> None:
    """Give an optimizer of the same parameters what `state` returned; all else that it remembers is forgotten.

    Parameters
    ----------
    optimizer
        Of torch.
    arrays
        Tensors by name; names that do not begin with the prefix are left out.
    prefix
        What the names begin with.

    Raises
    ------
    InputError
        For a tensor that this optimizer does not keep, or not of its parameter's shape. Adam's, AdamW's and SGD's are
        held against what these keep; of other optimizers, shapes alone.

    Examples
    --------
    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> restore(torch.optim.Adam([weight]), {"optimizer.0.exp_avg": torch.ones(3)})
    Traceback (most recent call last):
    sextet_common.errors.InputError: optimizer.0.exp_avg has the shape (3,); expected: (2,), its parameter's
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found: dict[int, dict[str, Any]] = {}
    for name, tensor in arrays.items():
        if not name.startswith(f"{prefix}."):
            continue
        number, _, key = name[len(prefix) + 1 :].partition(".")
        if not (number.isdecimal() and int(number) < len(parameters)):
            raise InputError(f"{name} in the memory of an optimizer", f"numbers of its {len(parameters)} parameters")
        if key == "step":
            if tensor.ndim or not 0 <= float(tensor) < float("inf"):
                told = f"has the shape {tuple(tensor.shape)}" if tensor.ndim else f"is {float(tensor)}"
                raise InputError(f"{name} {told}", "one finite number >= 0")
        elif tensor.shape != parameters[int(number)].shape:
            shape = tuple(parameters[int(number)].shape)
            raise InputError(f"{name} has the shape {tuple(tensor.shape)}", f"{shape}, its parameter's")
        # A step's number stays on the CPU, where the optimizer counts.
        found.setdefault(int(number), {})[key] = tensor.cpu() if key == "step" else tensor
    kind = type(optimizer).__name__
    for n, values in sorted(found.items()):
        kept = _KEPT.get(kind, values.keys())
        if values.keys() != kept:
            raise InputError(f"{prefix}.{n} has {', '.join(sorted(values))}", f"{', '.join(sorted(kept))} as {kind}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": found})
