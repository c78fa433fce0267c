"""Behaviour cloning: a policy of one shape imitates another one on given observations."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from esac.play.policy import ActionMap, PolicyShape

_LARGEST = 0.98  # of squashed actions: beyond, their inverse grows without bound
_RIDGE = 1e-4  # of the mean square of the inputs: keeps the weights of linear policies finite
_STEPS, _LR = 200, 3e-3


def cloned(
    shape: PolicyShape,
    vector: Float[np.ndarray, " size"],
    observations: Float[np.ndarray, "n observations"],
    actions: Float[np.ndarray, "n actions"],
    action: ActionMap = "tanh",
) -> Float[np.ndarray, " size"]:
    """Return weights with which a policy of this shape acts like ``actions``, in [-1, 1], on ``observations``.

    A linear policy is fitted by least squares to the actions before their squashing; one with hidden layers takes some
    steps of Adam from ``vector``. Observations are normalised already, if they are to be.
    """
    targets = actions if action != "tanh" else np.arctanh(np.clip(actions, -_LARGEST, _LARGEST))
    return _adam(shape, vector, observations, targets) if shape.hidden else _least_squares(shape, observations, targets)


def _least_squares(shape: PolicyShape, observations: np.ndarray, targets: np.ndarray) -> np.ndarray:
    ones = np.ones((len(observations), int(shape.bias)))
    rows = np.hstack([observations, ones]).astype(np.float64)
    ridge = _RIDGE * np.square(rows).mean() * len(rows) * np.eye(rows.shape[1])
    solution = np.linalg.solve(rows.T @ rows + ridge, rows.T @ targets.astype(np.float64))
    vector = np.zeros(shape.size, dtype=np.float32)
    ((weights, biases),) = shape.parts(vector)
    weights[:] = solution[: shape.observations].T
    biases[:] = solution[shape.observations :].sum(axis=0)
    return vector


def _adam(shape: PolicyShape, vector: np.ndarray, observations: np.ndarray, targets: np.ndarray) -> np.ndarray:
    flat = torch.tensor(vector, requires_grad=True)
    seen, wanted = torch.tensor(observations), torch.tensor(targets, dtype=torch.float32)
    optimizer = torch.optim.Adam([flat], _LR)
    for _ in range(_STEPS):
        x, start = seen, 0
        for number, (rows, columns) in enumerate(shape.layers):
            weights = flat[start : start + rows * columns].view(rows, columns)
            biases = flat[start + rows * columns : start + rows * columns + rows]
            start += rows * columns + rows
            x = torch.nn.functional.linear(x, weights, biases)
            x = x.relu() if number < len(shape.layers) - 1 else x
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(x, wanted).backward()
        optimizer.step()
    result: np.ndarray = flat.detach().numpy()
    return result
