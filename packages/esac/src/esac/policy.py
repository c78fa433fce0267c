"""One policy in two forms: a vector of float32 numbers for NumPy, which workers run, and a module for torch.

The network is obs - hidden - hidden - mean, ReLU between, and an action is ``tanh(mean) * scale + bias``: one map for
all policies, evolved, injected or trained by gradients. The layers that lead to the mean are the vector; the log
deviation, which an evolved policy has no use for, is the torch module's alone.
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sextet_common import files, npy
from sextet_common.errors import InputError, reading

ActionMap = Literal["tanh", "clip"]


@dataclass(frozen=True)
class PolicyShape:
    """What a policy's vector holds: weights (out, in) and biases of each layer, layer after layer.

    Parameters
    ----------
    observations, actions
        How many numbers an observation and an action have.
    hidden
        Units of the hidden layers.

    Raises
    ------
    InputError
        Where a number is below 1.

    Examples
    --------
    >>> PolicyShape(17, 6).size
    71942
    """

    observations: int
    actions: int
    hidden: tuple[int, ...] = (256, 256)
    layers: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        sizes = (self.observations, *self.hidden, self.actions)
        if min(sizes) < 1:
            raise InputError(f"a policy of sizes {sizes}", "whole numbers >= 1")
        object.__setattr__(self, "layers", tuple(zip(sizes[1:], sizes[:-1], strict=True)))

    @property
    def size(self) -> int:
        """How many numbers the vector has."""
        return sum(rows * columns + rows for rows, columns in self.layers)

    def parts(self, vector: Float[np.ndarray, " size"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return views of each layer's weights (out, in) and biases (out,).

        Raises
        ------
        InputError
            Where the vector has another length.
        """
        if vector.shape != (self.size,):
            raise InputError(f"a policy vector of shape {vector.shape}", f"({self.size},)")
        found, start = [], 0
        for rows, columns in self.layers:
            weights = vector[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            found.append((weights, vector[start : start + rows]))
            start += rows
        return found

    def initial(self, random: np.random.Generator) -> Float[np.ndarray, " size"]:
        """Draw weights uniformly by Xavier's rule, with biases of 0."""
        vector = np.zeros(self.size, dtype=np.float32)
        for weights, _ in self.parts(vector):
            bound = math.sqrt(6 / sum(weights.shape))
            weights[:] = random.uniform(-bound, bound, weights.shape)
        return vector


class NumpyPolicy:
    """A policy that acts by NumPy alone, on preallocated arrays: what rollout workers run.

    Parameters
    ----------
    shape
        The vector's layout.
    low, high
        Ends of the actions, shape (actions,).
    vector
        The weights; zeros where not given.
    action
        "tanh", or "clip": the mean itself between -1 and 1, as ESAC's public code lets its population act.

    Raises
    ------
    InputError
        Where the actions' ends are not finite, or the map is another.

    Examples
    --------
    >>> policy = NumpyPolicy(PolicyShape(3, 1, (4,)), np.array([-2.0]), np.array([2.0]))
    >>> policy(np.zeros(3))
    array([0.], dtype=float32)
    """

    def __init__(
        self,
        shape: PolicyShape,
        low: Float[np.ndarray, " actions"],
        high: Float[np.ndarray, " actions"],
        vector: Float[np.ndarray, " size"] | None = None,
        action: ActionMap = "tanh",
    ) -> None:
        if action not in ("tanh", "clip"):
            raise InputError(f"the action map {action!r}", "tanh or clip")
        self.shape, self.action = shape, action
        self.low, self.high = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
        self.scale, self.bias = action_map(low, high)
        self.vector = np.zeros(shape.size, dtype=np.float32)
        self._layers = shape.parts(self.vector)
        self._outputs = [np.empty(rows, dtype=np.float32) for rows, _ in shape.layers]
        self._input = np.empty(shape.observations, dtype=np.float32)
        if vector is not None:
            self.vector[:] = vector

    def __call__(self, observation: Float[np.ndarray, " observations"]) -> Float[np.ndarray, " actions"]:
        """Return the action for an observation: a new array."""
        x = self._input
        x[:] = observation
        last = len(self._layers) - 1
        for number, ((weights, biases), out) in enumerate(zip(self._layers, self._outputs, strict=True)):
            np.dot(weights, x, out=out)
            out += biases
            if number < last:
                np.maximum(out, 0, out=out)
            x = out
        return self._mapped(x)

    def batch(self, observations: Float[np.ndarray, "n observations"]) -> Float[np.ndarray, "n actions"]:
        """Return the actions for many observations."""
        x = np.asarray(observations, dtype=np.float32)
        for number, (weights, biases) in enumerate(self._layers):
            x = x @ weights.T + biases
            if number < len(self._layers) - 1:
                x = np.maximum(x, 0)
        return self._mapped(x)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy as an npz file, from which `load` makes it again without torch.

        Parameters
        ----------
        path
            The file; whole, or not there at all.
        """
        content = io.BytesIO()
        np.savez(
            content, vector=self.vector, low=self.low, high=self.high, hidden=np.array(self.shape.hidden, np.int64),
            observations=np.array(self.shape.observations), action=np.array(self.action),
        )  # fmt: skip
        with files.replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NumpyPolicy:
        """Read a policy that `save` wrote.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        NumpyPolicy
            The policy.

        Raises
        ------
        InputError
            Where the file is missing, damaged, or holds something else.
        """
        expected = "the npz file that NumpyPolicy.save wrote"
        table = npy.read_npz(path, ("low", "high", "vector", "hidden", "observations", "action"), expected=expected)
        with reading(path, expected):
            low, high, vector = (np.asarray(table[name], np.float32) for name in ("low", "high", "vector"))
            hidden = tuple(int(units) for units in np.atleast_1d(table["hidden"]))
            shape = PolicyShape(int(table["observations"]), low.size, hidden)
            action: Any = str(table["action"])
        if vector.shape != (shape.size,) or low.ndim != 1:
            raise InputError(f"{path} holds {vector.size} weights", f"{shape.size}, which its layers need")
        return cls(shape, low, high, vector, action)

    def _mapped(self, mean: np.ndarray) -> np.ndarray:
        if self.action == "clip":
            clipped: np.ndarray = np.clip(np.clip(mean, -1, 1), self.low, self.high)
            return clipped
        found: np.ndarray = np.tanh(mean) * self.scale + self.bias
        return found


def action_map(low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and bias that map [-1, 1] to the actions' box.

    Raises
    ------
    InputError
        Where the box is not bounded.
    """
    low, high = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    if low.shape != high.shape or not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise InputError(f"actions from {low} to {high}", "finite ends, low below high")
    return (high - low) / 2, (high + low) / 2
