"""Features of every layer of a network, for the discovery of subclasses.

A network that was trained on classes alone has erased the subclasses in its last layers, while its first ones still
tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common.networks import device_of, evaluating
from torch import Tensor, nn
from torch.nn import functional

from subclass_kd.data import Part
from subclass_kd.networks import features_of

_SIDE = 8  # to which larger maps are averaged
_SAMPLE = 2000  # images from which principal axes are estimated
_BATCH = 256


def layer_features(network: nn.Module, *parts: Part, dims: int = 32) -> dict[str, Float[np.ndarray, "images features"]]:
    """Compute at most ``dims`` principal components of the pixels and of every layer's output, for every image.

    The principal axes are those of the first part; the rows of the others follow.

    Layers are named by their height and width, such as "8x8": of all modules with that size the last one counts. "last"
    is the input of the last linear layer. Maps of more than 8 x 8 are averaged to that size.

    Examples
    --------
    >>> from subclass_kd import build, load
    >>> digits = load("digits").scarce(0.05)
    >>> features = layer_features(build("convnet", digits.input_shape, 2, width=4), digits.train)
    >>> {name: layer.shape for name, layer in features.items()}
    {'pixels': (60, 32), '8x8': (60, 32), '4x4': (60, 32), 'last': (60, 8)}
    """
    first = parts[0]
    sample = list(_layers(network, first, np.linspace(0, len(first) - 1, min(len(first), _SAMPLE)).astype(np.int64)))
    axes = {name: _principal_axes(np.concatenate([block[name] for block in sample]), dims) for name in sample[0]}
    found: dict[str, list[np.ndarray]] = {name: [] for name in axes}
    for part in parts:
        for block in _layers(network, part, np.arange(len(part))):
            for name, (mean, directions) in axes.items():
                found[name].append((block[name] - mean) @ directions)
    return {name: np.concatenate(blocks) for name, blocks in found.items()}


def _layers(network: nn.Module, part: Part, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yield the flattened layers of a batch after the other, by name."""
    device = device_of(network)
    for some in np.array_split(rows, -(-len(rows) // _BATCH)):
        yield _of_batch(network, part.batch(some, device))


def _of_batch(network: nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    """Return the flattened layers of a batch, by name."""
    maps: dict[str, Tensor] = {}

    def keep(_: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1:
            maps.pop(name := f"{output.shape[2]}x{output.shape[3]}", None)
            maps[name] = output.detach().clone()  # a module that works in place may follow

    hooks = [module.register_forward_hook(keep) for module in network.modules() if not list(module.children())]
    try:
        with evaluating(network):
            last = features_of(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    layers = {"pixels": images, **maps, "last": last}
    return {name: _flat(values).float().cpu().numpy() for name, values in layers.items()}


def _flat(values: Tensor) -> Tensor:
    if values.ndim == 4 and max(values.shape[2:]) > _SIDE:
        values = functional.adaptive_avg_pool2d(values, (min(_SIDE, values.shape[2]), min(_SIDE, values.shape[3])))
    return values.flatten(1)


def _principal_axes(values: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the directions of largest variance, or all directions if there are no more."""
    from sklearn.decomposition import PCA

    mean = values.mean(axis=0)
    if values.shape[1] <= dims:
        return mean, np.eye(values.shape[1], dtype=values.dtype)
    count = min(dims, len(values))
    return mean, PCA(count, random_state=0).fit(values - mean).components_.T
