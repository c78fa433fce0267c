"""What a choice of images goes by: greedy rules over points, and features to compare images by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from sextet_common import device as devices
from sextet_common import seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor
from torch.nn import functional

from attention_matching.networks import build
from attention_matching.preprocess import Preprocessing

FeatureFunction = Callable[[Tensor], Tensor]


def farthest_first(points: Float[Tensor, "n size"], count: int) -> list[int]:
    """Choose points greedily: first the nearest to the mean, then always the farthest from those chosen.

    The largest distance of a point to its nearest chosen one is at most twice the smallest
    possible (Gonzalez 1985), whatever the first point.

    Parameters
    ----------
    points
        One row each.
    count
        How many, at most n.

    Returns
    -------
    list of int
        Rows, each once, in the order of their choice; of equals the first.

    Examples
    --------
    >>> farthest_first(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3)
    [2, 3, 0]
    """
    chosen = [int(_distances(points, points.double().mean(dim=0)).argmin())]
    nearest = points.new_full((len(points),), torch.inf)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, _distances(points, points[chosen[-1]]))
        nearest[chosen[-1]] = -1.0  # below any distance: copies of a chosen point may follow, the point itself not
        chosen.append(int(nearest.argmax()))
    return chosen


def nearest_mean(points: Float[Tensor, "n size"], count: int) -> list[int]:
    """Choose points greedily: always the one that brings the chosen points' mean nearest to the mean of all.

    Parameters
    ----------
    points
        One row each.
    count
        How many, at most n.

    Returns
    -------
    list of int
        Rows, each once, in the order of their choice; of equals the first.

    Examples
    --------
    >>> nearest_mean(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 2)
    [2, 1]
    """
    mean = points.double().mean(dim=0)
    total = torch.zeros_like(mean)
    free = points.new_zeros(len(points))
    chosen: list[int] = []
    while len(chosen) < count:
        # |mean - (total + x) / m| is smallest where x is nearest to m * mean - total.
        wanted = (len(chosen) + 1) * mean - total
        chosen.append(int((_distances(points, wanted) + free).argmin()))
        free[chosen[-1]] = torch.inf
        total += points[chosen[-1]]
    return chosen


def trained_features(
    data: ImageSet,
    preprocessing: Preprocessing | None = None,
    *,
    epochs: int = 10,
    seed: int = 0,
    device: str = "auto",
) -> FeatureFunction:
    """Train a network on all training images, for its features.

    *Ours*: the default ConvNet, SGD with learning rate 0.01 and momentum 0.9, batches of 64,
    no augmentation.

    Parameters
    ----------
    data
        The images.
    preprocessing
        From pixels to inputs; by default the training images' mean and std.
    epochs
        Passes over the training images, at least 1.
    seed
        The seed of the initialisation and of the order.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns
    -------
    callable
        From inputs, on any device, to the trained network's embedding, on its own.

    Raises
    ------
    InputError
        Where ``epochs`` is below 1 or the device is not there.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> features = trained_features(load("digits"), epochs=1)
    >>> tuple(features(torch.zeros(3, 1, 8, 8)).shape)
    (3, 256)
    """
    if epochs < 1:
        raise InputError(f"epochs is {epochs}", "a whole number >= 1")
    where = devices.pick(device)
    images = (preprocessing or Preprocessing.fit(data))(data.train_images)
    labels = torch.tensor(data.train_labels)
    with seeding.torch_seed(seed, "feature network"):
        network = build("convnet", data.image_shape, data.n_classes).to(where)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(epochs):
        order = torch.from_numpy(seeding.generator(seed, "feature order", epoch).permutation(len(images)))
        for index in order.split(64):
            optimiser.zero_grad()
            functional.cross_entropy(network(images[index].to(where)), labels[index].to(where)).backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    return lambda inputs: network.features(inputs.to(where)).embedding


def _distances(points: Tensor, centre: Tensor) -> Tensor:
    """Return every row's Euclidean distance to a centre: by differences, so that equal rows are equally far."""
    near = centre.to(points.dtype)[None]
    return torch.cdist(points, near, compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
