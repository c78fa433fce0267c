"""Features to compare images by: the embedding of a network trained on all images."""

from __future__ import annotations

import torch
from sextet_common import data as image_data, device as devices, seeding
from sextet_common.checks import Count, check
from torch.nn import functional

from attention_matching.images.coreset import FeatureFunction
from attention_matching.images.inputs import RealInputs
from attention_matching.images.preprocess import Preprocessing
from attention_matching.networks.build import build


def trained_features(
    data: image_data.Source,
    preprocessing: Preprocessing | None = None,
    *,
    epochs: int = 10,
    seed: int = 0,
    device: str = "auto",
) -> FeatureFunction:
    """Train a network on all training images and return the function from inputs to its embeddings.

    Not specified in the papers; we use the default ConvNet, SGD with learning rate 0.01 and momentum 0.9, batches of
    64 and no augmentation. The function takes inputs on any device.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> features = trained_features(load("digits"), epochs=1)
    >>> tuple(features(torch.zeros(3, 1, 8, 8)).shape)
    (3, 256)
    """
    check("epochs", epochs, Count)
    chosen = devices.pick(device)
    data = image_data.load(data)
    images = RealInputs(data.train_images, preprocessing or Preprocessing.fit(data), device=chosen)
    labels = torch.tensor(data.train_labels)
    with seeding.torch_seed(seed, "feature network"):
        network = build("convnet", data.image_shape, data.n_classes).to(chosen)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(epochs):
        order = torch.from_numpy(seeding.generator(seed, "feature order", epoch).permutation(len(images)))
        for index in order.split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[index]), labels[index].to(chosen)).backward()
            optimizer.step()
    network.eval().requires_grad_(False)
    return lambda inputs: network.features(inputs.to(chosen)).embedding
