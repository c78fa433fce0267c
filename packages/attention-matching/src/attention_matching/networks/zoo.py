"""AlexNet, VGG-11, ResNet-18 and a vision transformer, in versions for small images."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_matching.kinds import Norm
from attention_matching.networks.base import FeatureNetwork, Features
from attention_matching.networks.convnet import Block, BlockNetwork
from attention_matching.networks.layers import normalisation

_MIN_SIDE = 8  # pixels: three halvings, or four patches


class AlexNet(BlockNetwork):
    """AlexNet as in the dataset-condensation papers for 32x32 images; sides of at least 8 pixels.

    Five convolutions (128 and 192 channels 5x5; 256, 192 and 192 channels 3x3), each with a normalisation and a ReLU;
    2x2 max-pooling after the first, second and fifth; one linear layer. The condensation papers' code has no norm.
    Source: Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching" (arXiv 2006.05929), section 4, and its
    public code; after Krizhevsky, Sutskever and Hinton (2012).

    Examples
    --------
    >>> import torch
    >>> features = AlexNet((3, 32, 32), 10).features(torch.zeros(1, 3, 32, 32))
    >>> [m.shape[-1] for m in features.maps], features.embedding.shape[1] == 192 * 4 * 4
    ([32, 16, 8, 8, 8], True)
    """

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, *, norm: Norm = "instance") -> None:
        _check_size("AlexNet", image_shape)
        blocks = [Block(128, 5), Block(192, 5), Block(256, pool=False), Block(192, pool=False), Block(192)]
        super().__init__(image_shape, n_classes, blocks, norm=norm, pooling="max")


class VGG11(BlockNetwork):
    """VGG-11 with one linear layer, as in the dataset-condensation papers; image sides of at least 8 pixels.

    Eight 3x3 convolutions of 64, 128, 256, 256, 512, 512, 512 and 512 channels, each with a normalisation (customarily
    ``batch``) and a ReLU; five 2x2 max-poolings (fewer below 28 pixels, see
    :class:`~attention_matching.networks.convnet.BlockNetwork`). Source: Simonyan and Zisserman (arXiv 1409.1556), table
    1, column A; the single linear layer as in the public code of arXiv 2006.05929.

    Examples
    --------
    >>> import torch
    >>> features = VGG11((3, 32, 32), 10).features(torch.zeros(1, 3, 32, 32))
    >>> [m.shape[-1] for m in features.maps], features.embedding.shape[1]
    ([32, 16, 8, 8, 4, 4, 2, 2], 512)
    """

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, *, norm: Norm = "instance") -> None:
        _check_size("VGG-11", image_shape)
        widths = [(64, True), (128, True), (256, False), (256, True), (512, False), (512, True), (512, False)]
        blocks = [Block(width, pool=pool) for width, pool in [*widths, (512, True)]]
        super().__init__(image_shape, n_classes, blocks, norm=norm, pooling="max")


class ResNet18(FeatureNetwork):
    """torchvision's ResNet-18 (arXiv 1512.03385) with a stem for small images; sides of at least 8 pixels.

    Up to 64 pixels the stem is a 3x3 convolution that keeps the image's size; above, it is torchvision's (7x7, stride
    2, max-pooling). Below 16 pixels, which the papers do not cover, a stage whose stride would leave a single pixel
    keeps the size. The maps are the outputs of the four stages, where Zagoruyko and Komodakis, "Paying more attention
    to attention" (arXiv 1612.03928), take attention in residual networks. Weights start from torch's default
    initialisation, as in the distillation papers' networks, instead of torchvision's. The ResNet paper's norm is
    ``batch``.

    Examples
    --------
    >>> import torch
    >>> features = ResNet18((3, 32, 32), 10).features(torch.zeros(1, 3, 32, 32))
    >>> [tuple(m.shape[1:]) for m in features.maps], features.embedding.shape[1]
    ([(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)], 512)
    """

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, *, norm: Norm = "instance") -> None:
        from torchvision.models.resnet import BasicBlock, ResNet

        super().__init__()
        _check_size("ResNet-18", image_shape)
        channels, *sides = image_shape
        side = min(sides)
        body = ResNet(BasicBlock, [2, 2, 2, 2], n_classes, norm_layer=partial(normalisation, norm))
        if side <= 64:
            stem: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), body.bn1, nn.ReLU()]
        else:
            convolution = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            stem = [convolution, body.bn1, nn.ReLU(), body.maxpool]
            side = -(-side // 4)
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleList([body.layer1, body.layer2, body.layer3, body.layer4])
        for stage in (body.layer2, body.layer3, body.layer4):
            if side <= 2:
                stage[0].conv1.stride = stage[0].downsample[0].stride = (1, 1)
            side = max(2, -(-side // 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
            if isinstance(module, nn.ReLU):
                module.inplace = False  # a map must not change after it is returned
        self.pool = body.avgpool
        self.classifier = body.fc

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Compute the maps of the four stages; the embedding is the last one's mean over positions."""
        maps = []
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), self.pool(x).flatten(1))


class ViT(FeatureNetwork):
    """A small vision transformer (arXiv 2010.11929) on torchvision's encoder.

    Images are square, with 4 to 8 patches on a side. Patches have an eighth of the image's side (4 pixels at 32; at
    least 2, and 4 for 28 pixels). The rest is not specified in the papers; we use 6 layers of ViT-Tiny's width (arXiv
    2012.12877), 192 channels in 3 heads, without dropout. The maps are the tokens after each layer at their places in
    the image; the embedding is the class token.

    Examples
    --------
    >>> import torch
    >>> features = ViT((3, 32, 32), 10).features(torch.zeros(1, 3, 32, 32))
    >>> [tuple(m.shape[1:]) for m in features.maps] == 6 * [(192, 8, 8)], features.embedding.shape[1]
    (True, 192)
    """

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        from torchvision.models.vision_transformer import Encoder

        super().__init__()
        _check_size("ViT", image_shape)
        channels, height, width = image_shape
        patch = next(size for size in range(max(2, -(-height // 8)), height + 1) if height % size == 0)
        if height != width or height // patch < 4:
            raise InputError(f"ViT needs square images whose side divides into 4 to 8 patches, got {height}x{width}")
        self.patches = nn.Conv2d(channels, 192, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 192))
        tokens = (height // patch) ** 2 + 1
        self.encoder = Encoder(tokens, 6, 3, 192, 4 * 192, dropout=0.0, attention_dropout=0.0)
        self.classifier = nn.Linear(192, n_classes)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Compute six maps of tokens; the embedding is the class token after the last norm."""
        patches = self.patches(images)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = tokens + self.encoder.pos_embedding
        maps = []
        with sdpa_kernel(SDPBackend.MATH):  # on every device; as fast as the others for 65 tokens
            for layer in self.encoder.layers:
                x = layer(x)
                maps.append(x[:, 1:].transpose(1, 2).reshape(patches.shape))
        return Features(tuple(maps), self.encoder.ln(x)[:, 0])


def _check_size(name: str, image_shape: tuple[int, int, int]) -> None:
    height, width = image_shape[1:]
    if min(height, width) < _MIN_SIDE:
        raise InputError(f"{name} needs image sides of {_MIN_SIDE} pixels or more, got {height}x{width}")
