"""Features to compare images by: a network trained on all images."""

from __future__ import annotations

import torch
from sextet_common import device as devices
from sextet_common import seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch.nn import functional

from attention_matching.images.coreset import FeatureFunction
from attention_matching.images.preprocess import Preprocessing
from attention_matching.networks.build import build


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
