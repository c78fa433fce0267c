"""Policies as flat float32 vectors, evaluated with NumPy alone.

The network has ReLU between its hidden layers, if there are any; ``tanh(mean) * scale + bias`` is the action of every
policy, whether evolved, injected or trained by gradients. The vector holds the layers up to the mean. The log standard
deviation, which evolved policies do not use, belongs to the torch module (`esac.sac.actor.Actor`) only. Observations
may be normalised by an offset and a scale, which are no part of the vector (`esac.play.normalize`).
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sextet_common import checkpoint, checks, files, hub, npy
from sextet_common.checks import Count
from sextet_common.errors import InputError, reading

ActionMap = Literal["tanh", "linear", "clip"]
HUB_FILE = "policy.safetensors"  # in folders for the Hugging Face Hub
_ARRAYS = ("vector", "low", "high")
_INPUTS = "inputs"  # an array of policies that normalise their observations


@dataclass(frozen=True)
class PolicyShape:
    """Layout of a policy vector: weights (out, in), then biases (out,), layer by layer.

    A linear policy may have no biases (``bias=False``), as in augmented random search.

    Examples
    --------
    >>> PolicyShape(17, 6).size, PolicyShape(17, 6, (), bias=False).size
    (71942, 102)
    """

    observations: Count
    actions: Count
    hidden: tuple[Count, ...] = (256, 256)
    bias: bool = True
    layers: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        sizes = (self.observations, *self.hidden, self.actions)
        object.__setattr__(self, "layers", tuple(zip(sizes[1:], sizes[:-1], strict=True)))
        checks.check_fields(self)
        if self.hidden and not self.bias:
            raise InputError(f"no biases in a policy with hidden layers of {self.hidden}", "a linear policy: none")

    @classmethod
    def holding(cls, size: int, observations: int, actions: int, hidden: tuple[int, ...]) -> PolicyShape:
        """Return the shape of a vector of ``size`` weights: without biases if it is too short for them."""
        return cls(observations, actions, hidden, bias=bool(hidden) or size != observations * actions)

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(rows * (columns + self.bias) for rows, columns in self.layers)

    def parts(self, vector: Float[np.ndarray, " size"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return views of the weights (out, in) and biases (out,) of each layer; zeros for biases that it lacks."""
        if vector.shape != (self.size,):
            raise InputError(f"a policy vector has shape ({self.size},), got {vector.shape}")
        parts, start = [], 0
        for rows, columns in self.layers:
            weights = vector[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            biases = vector[start : start + rows] if self.bias else np.zeros(rows, dtype=vector.dtype)
            parts.append((weights, biases))
            start += rows * self.bias
        return parts

    def initial(self, random: np.random.Generator) -> Float[np.ndarray, " size"]:
        """Draw weights by Xavier's uniform rule; biases are 0, and so is a policy without hidden layers (ARS)."""
        vector = np.zeros(self.size, dtype=np.float32)
        if not self.hidden:
            return vector
        for weights, _ in self.parts(vector):
            bound = math.sqrt(6 / sum(weights.shape))
            weights[:] = random.uniform(-bound, bound, weights.shape)
        return vector


class NumpyPolicy:
    """Deterministic policy in NumPy with preallocated arrays.

    Parameters
    ----------
    low, high
        Bounds of the actions, shape (actions,).
    vector
        The weights; zeros by default.
    action
        How the mean of the action becomes one: "tanh", "linear" (clipped to [-1, 1], then scaled to the bounds), or
        "clip" (clipped, but not scaled: how the population acts in ESAC's public code).
    inputs
        Offset and scale of the observations, ``(observation - offset) * scale``; by default they are not normalised.

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
        inputs: Float[np.ndarray, "2 observations"] | None = None,
    ) -> None:
        checks.check("action", action, ActionMap)
        self.shape, self.action = shape, action
        self.low, self.high = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
        self.scale, self.bias = action_map(low, high)
        self.vector = np.zeros(shape.size, dtype=np.float32)
        self._layers = shape.parts(self.vector)
        self._outputs = [np.empty(rows, dtype=np.float32) for rows, _ in shape.layers]
        self._input = np.empty(shape.observations, dtype=np.float32)
        if vector is not None:
            self.vector[:] = vector
        self.inputs: np.ndarray | None = None
        if inputs is not None:
            self.normalise(inputs)

    def normalise(self, inputs: Float[np.ndarray, "2 observations"]) -> None:
        """Set the offset and the scale of the observations."""
        inputs = np.array(inputs, dtype=np.float32)
        if inputs.shape != (2, self.shape.observations) or not np.isfinite(inputs).all():
            raise InputError(
                f"inputs of shape {inputs.shape}", f"finite numbers of shape (2, {self.shape.observations})"
            )
        self.inputs = inputs
        self._offset, self._scale = inputs

    def __call__(self, observation: Float[np.ndarray, " observations"]) -> Float[np.ndarray, " actions"]:
        """Return the action for one observation as a new array."""
        x = self._input
        if self.inputs is None:
            x[:] = observation
        else:
            np.subtract(observation, self._offset, out=x, casting="same_kind")
            x *= self._scale
        last = len(self._layers) - 1
        for number, ((weights, biases), out) in enumerate(zip(self._layers, self._outputs, strict=True)):
            np.dot(weights, x, out=out)
            out += biases
            if number < last:
                np.maximum(out, 0, out=out)
            x = out
        return self.to_actions(x)

    def batch(self, observations: Float[np.ndarray, "n observations"]) -> Float[np.ndarray, "n actions"]:
        """Return the actions for many observations."""
        x = np.asarray(observations, dtype=np.float32)
        if self.inputs is not None:
            x = (x - self._offset) * self._scale
        for number, (weights, biases) in enumerate(self._layers):
            x = x @ weights.T + biases
            if number < len(self._layers) - 1:
                x = np.maximum(x, 0)
        return self.to_actions(x)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz or safetensors file, by the suffix, atomically; `load` reads it without torch."""
        if Path(path).suffix == ".safetensors":
            meta = {"observations": self.shape.observations, "hidden": list(self.shape.hidden), "action": self.action}
            checkpoint.save(path, self._arrays(), meta)
            return
        content = io.BytesIO()
        sizes = {"hidden": np.array(self.shape.hidden, np.int64), "observations": np.array(self.shape.observations)}
        np.savez(content, action=np.array(self.action), **sizes, **self._arrays())  # type: ignore[arg-type]
        with files.replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NumpyPolicy:
        """Read a policy that `save` wrote."""
        expected = "the npz or safetensors file that NumpyPolicy.save wrote"
        table: dict[str, Any]
        if Path(path).suffix == ".safetensors":
            saved = checkpoint.load(path)
            table = {**saved.arrays, **saved.meta}
        else:
            names = (*_ARRAYS, "hidden", "observations", "action")
            table = dict(npy.read_npz(path, names, [_INPUTS], expected=expected))
        with reading(path, expected, TypeError, KeyError):
            low, high, vector = (np.asarray(table[name], np.float32) for name in ("low", "high", "vector"))
            hidden = tuple(int(units) for units in np.atleast_1d(table["hidden"]))
            shape = PolicyShape.holding(vector.size, int(table["observations"]), low.size, hidden)
            action: Any = str(table["action"])
            inputs = None if _INPUTS not in table else np.asarray(table[_INPUTS], np.float32)
        if vector.shape != (shape.size,) or low.ndim != 1:
            raise InputError(f"{path} holds {vector.size} weights", f"{shape.size}, as its layers need")
        return cls(shape, low, high, vector, action, inputs)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> NumpyPolicy:
        """Load the policy of a folder that `export_hub` wrote, or of OWNER/NAME on the Hugging Face Hub.

        ``revision`` is a branch, tag or commit there (extra ``hub`` of sextet-common).
        """
        return cls.load(hub.local_folder(name_or_path, revision=revision, only=[HUB_FILE]) / HUB_FILE)

    def _arrays(self) -> dict[str, np.ndarray]:
        inputs = {} if self.inputs is None else {_INPUTS: self.inputs}
        return {**{name: getattr(self, name) for name in _ARRAYS}, **inputs}

    def to_actions(self, mean: Float[np.ndarray, "... actions"]) -> Float[np.ndarray, "... actions"]:
        """Return the actions that outputs of the network stand for."""
        actions: np.ndarray
        if self.action == "clip":
            actions = np.clip(np.clip(mean, -1, 1), self.low, self.high)
        else:
            inside = np.tanh(mean) if self.action == "tanh" else np.clip(mean, -1, 1)
            actions = inside * self.scale + self.bias
        return actions


def action_map(low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and bias that map [-1, 1] to the bounds of the actions."""
    low, high = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    if low.shape != high.shape or not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise InputError(f"the actions range from {low} to {high}", "finite bounds, low below high")
    return (high - low) / 2, (high + low) / 2
