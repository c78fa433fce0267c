"""Every network against hand-made tables, torchvision's own networks and torch's own layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from attention_matching.kinds import ARCHITECTURES, Activation, Norm, Pooling
from attention_matching.networks.base import FeatureNetwork, Features
from attention_matching.networks.build import build
from attention_matching.networks.convnet import ConvNet, default_depth, default_width
from attention_matching.networks.zoo import AlexNet, ResNet18, ViT
from sextet_common.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

NORMS = get_args(Norm)
CONVOLUTIONAL = [name for name in ARCHITECTURES if name != "vit"]

# The maps' sides for square images, and the size of the embedding: from the papers' tables by hand.
SIDES = {
    ("convnet", 8): ([8, 4], 64 * 2 * 2),
    ("convnet", 28): ([32, 16, 8], 128 * 4 * 4),
    ("convnet", 32): ([32, 16, 8], 128 * 4 * 4),
    ("convnet", 64): ([64, 32, 16, 8], 128 * 4 * 4),
    ("convnet", 128): ([128, 64, 32, 16, 8], 128 * 4 * 4),
    ("alexnet", 8): ([8, 4, 2, 2, 2], 192),
    ("alexnet", 28): ([32, 16, 8, 8, 8], 192 * 4 * 4),
    ("alexnet", 32): ([32, 16, 8, 8, 8], 192 * 4 * 4),
    ("alexnet", 64): ([64, 32, 16, 16, 16], 192 * 8 * 8),
    ("alexnet", 128): ([128, 64, 32, 32, 32], 192 * 16 * 16),
    ("vgg11", 8): ([8, 4, 2, 2, 2, 2, 2, 2], 512),
    ("vgg11", 28): ([32, 16, 8, 8, 4, 4, 2, 2], 512),
    ("vgg11", 32): ([32, 16, 8, 8, 4, 4, 2, 2], 512),
    ("vgg11", 64): ([64, 32, 16, 16, 8, 8, 4, 4], 512 * 2 * 2),
    ("vgg11", 128): ([128, 64, 32, 32, 16, 16, 8, 8], 512 * 4 * 4),
    ("resnet18", 8): ([8, 4, 2, 2], 512),
    ("resnet18", 28): ([28, 14, 7, 4], 512),
    ("resnet18", 32): ([32, 16, 8, 4], 512),
    ("resnet18", 64): ([64, 32, 16, 8], 512),
    ("resnet18", 128): ([32, 16, 8, 4], 512),
    ("vit", 8): ([4] * 6, 192),
    ("vit", 28): ([7] * 6, 192),
    ("vit", 32): ([8] * 6, 192),
    ("vit", 64): ([8] * 6, 192),
    ("vit", 128): ([8] * 6, 192),
}
WIDTHS = {
    "alexnet": [128, 192, 256, 192, 192],
    "vgg11": [64, 128, 256, 256, 512, 512, 512, 512],
    "resnet18": [64, 128, 256, 512],
    "vit": [192] * 6,
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def small(architecture: str, norm: str = "instance", channels: int = 1, side: int = 8) -> FeatureNetwork:
    width = 8 if architecture == "convnet" else None
    return build(architecture, (channels, side, side), 5, width=width, norm=norm)


@pytest.mark.parametrize(("architecture", "side"), SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_maps_and_the_embedding_have_the_tables_sizes(architecture: str, side: int, channels: int) -> None:
    sides, size = SIDES[architecture, side]
    widths = WIDTHS.get(architecture, [default_width(side)] * len(sides))
    with torch.device("meta"):  # shapes alone: a VGG of 128 pixels would take seconds
        network = build(architecture, (channels, side, side), 10)
        features = network.features(torch.zeros(2, channels, side, side))
        logits = network(torch.zeros(2, channels, side, side))
    assert [tuple(m.shape) for m in features.maps] == [(2, w, s, s) for w, s in zip(widths, sides, strict=True)]
    assert tuple(features.embedding.shape) == (2, size) and tuple(logits.shape) == (2, 10)


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_images_need_not_be_square(architecture: str) -> None:
    with torch.device("meta"):
        network = build(architecture, (3, 24, 40), 10)
        first = network.features(torch.zeros(2, 3, 24, 40)).maps[0]
        assert tuple(first.shape[2:]) == (24, 40) and tuple(network(torch.zeros(2, 3, 24, 40)).shape) == (2, 10)


def test_networks_have_as_many_parameters_as_their_tables_say() -> None:
    def stack(kernels: list[tuple[int, int, int]], norms: bool) -> int:
        return sum(a * b * k * k + b + 2 * b * norms for a, b, k in kernels)

    assert parameters(ConvNet((3, 32, 32), 10)) == 320_010  # as the papers' ConvNet-3
    convnet = [(3, 128, 3), (128, 128, 3), (128, 128, 3), (128, 128, 3)]
    assert parameters(ConvNet((3, 64, 64), 200)) == stack(convnet, True) + (128 * 4 * 4 + 1) * 200
    alexnet = [(1, 128, 5), (128, 192, 5), (192, 256, 3), (256, 192, 3), (192, 192, 3)]
    assert parameters(build("alexnet", (1, 28, 28), 10, norm="none")) == stack(alexnet, False) + (192 * 16 + 1) * 10
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    vgg = [(a, b, 3) for a, b in itertools.pairwise(widths)]
    assert parameters(build("vgg11", (3, 32, 32), 10, norm="batch")) == stack(vgg, True) + 513 * 10


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_small_resnet_differs_from_torchvisions_by_its_stem_and_classes(norm: str) -> None:
    from torchvision.models import resnet18

    with torch.device("meta"):
        theirs = parameters(resnet18())  # 11 689 512: a 7x7 stem and 1000 classes
        assert parameters(build("resnet18", (3, 32, 32), 10, norm=norm)) == theirs - 64 * 3 * (49 - 9) - 513 * 990


def test_the_vit_has_the_parameters_of_its_description() -> None:
    layer = 2 * 2 * 192 + 4 * (192 * 192 + 192) + 192 * 768 + 768 + 768 * 192 + 192
    tokens = 3 * 16 * 192 + 192 + 192 + 65 * 192
    with torch.device("meta"):
        assert parameters(build("vit", (3, 32, 32), 10)) == tokens + 6 * layer + 2 * 192 + 193 * 10


@pytest.mark.parametrize("side", [32, 80])
def test_the_resnet_computes_what_torchvisions_does(side: int) -> None:
    from torchvision.models import resnet18

    ours, theirs = ResNet18((3, side, side), 7, norm="batch"), resnet18(num_classes=7)
    if side <= 64:
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    names = {"stem.0": "conv1", "stem.1": "bn1", "classifier": "fc"} | {
        f"stages.{n}": f"layer{n + 1}" for n in range(4)
    }
    theirs.load_state_dict({_renamed(k, names): v for k, v in ours.state_dict().items()})
    images = torch.randn(2, 3, side, side)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)  # sums in another order


def test_the_vit_computes_what_torchvisions_does() -> None:
    from torchvision.models import VisionTransformer

    ours = ViT((3, 32, 32), 7)
    theirs = VisionTransformer(32, 4, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=7)
    names = {"patches": "conv_proj", "classifier": "heads.head"}
    theirs.load_state_dict({_renamed(k, names): v for k, v in ours.state_dict().items()})
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


def test_the_vits_maps_hold_the_tokens_at_their_places_in_the_image() -> None:
    network = ViT((1, 8, 8), 2)
    network.encoder.layers = nn.Sequential(nn.Identity())
    with torch.no_grad():
        network.encoder.pos_embedding.zero_()
        images = torch.randn(3, 1, 8, 8)
        torch.testing.assert_close(network.features(images).maps[0], network.patches(images))


def _renamed(key: str, names: dict[str, str]) -> str:
    return next((new + key[len(old) :] for old, new in names.items() if key.startswith(old)), key)


@pytest.mark.parametrize("architecture", ["convnet", "alexnet", "vgg11"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_maps_are_what_every_relu_returned(architecture: str, norm: str) -> None:
    network, seen = small(architecture, norm), []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    features = network.features(torch.randn(3, 1, 8, 8))
    assert len(seen) == len(features.maps)
    for (before, after), returned in zip(seen, features.maps, strict=True):
        torch.testing.assert_close(returned, after, rtol=0, atol=0)
        torch.testing.assert_close(returned, before.clamp(min=0), rtol=0, atol=0)


def test_the_resnets_maps_are_each_stages_last_relu() -> None:
    network, seen = small("resnet18"), []
    for stage in network.stages:
        stage[-1].relu.register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
    features = network.features(torch.randn(3, 1, 8, 8))
    for after, returned in zip(seen[1::2], features.maps, strict=True):  # a block's ReLU is called twice
        torch.testing.assert_close(returned, after, rtol=0, atol=0)
        assert (returned >= 0).all()
    torch.testing.assert_close(features.embedding, features.maps[-1].mean(dim=(2, 3)))


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("activation", get_args(Activation))
def test_a_convnet_is_its_layers_written_one_after_another(activation: str, pooling: str) -> None:
    network = ConvNet((3, 16, 12), 5, width=8, depth=2, activation=activation, pooling=pooling)
    act = {"relu": functional.relu, "sigmoid": torch.sigmoid, "leaky_relu": functional.leaky_relu}[activation]
    pool = {"avg": lambda x: functional.avg_pool2d(x, 2), "max": lambda x: functional.max_pool2d(x, 2)}.get(pooling)
    images = x = torch.randn(4, 3, 16, 12)
    features = network.features(images)
    for block, returned in zip(network.blocks, features.maps, strict=True):
        x = functional.conv2d(x, block[0].weight, block[0].bias, padding=1)
        x = act(functional.instance_norm(x))
        torch.testing.assert_close(returned, x)
        x = x if pool is None else pool(x)
    torch.testing.assert_close(features.embedding, x.flatten(1))
    torch.testing.assert_close(network(images), functional.linear(x.flatten(1), *network.classifier.parameters()))


def test_every_convnet_of_the_papers_search_space_can_be_built() -> None:
    grid = itertools.product((32, 64, 128, 256), (1, 2, 3, 4), NORMS, get_args(Activation), get_args(Pooling))
    count = 0
    for width, depth, norm, activation, pooling in grid:
        options = {"width": width, "depth": depth, "norm": norm, "activation": activation, "pooling": pooling}
        with torch.device("meta"):
            network = ConvNet((3, 32, 32), 10, **options)
        side = 32 if pooling == "none" else 32 >> depth
        assert network.classifier.in_features == width * side * side
        count += 1
    assert count == 720


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_every_norm_is_torchs_own(architecture: str) -> None:
    kinds = {"instance": nn.GroupNorm, "group": nn.GroupNorm, "layer": nn.GroupNorm, "batch": nn.BatchNorm2d}
    for norm in NORMS:
        with torch.device("meta"):
            network = small(architecture, norm)
        found = [m for m in network.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm2d))]
        assert (len(found) > 0) == (norm != "none") and all(type(m) is kinds[norm] for m in found)
        groups = {(m.num_groups, m.num_channels) for m in found if isinstance(m, nn.GroupNorm)}
        assert all(g == {"instance": c, "group": 4, "layer": 1}[norm] for g, c in groups)


def test_instance_and_layer_norm_equal_torchs_with_scale_and_shift() -> None:
    scale, shift = torch.randn(6), torch.randn(6)
    x = torch.randn(3, 6, 5, 4)
    peer = nn.InstanceNorm2d(6, affine=True)
    scaled = functional.layer_norm(x, (6, 5, 4)) * scale[:, None, None] + shift[:, None, None]
    for norm, expected in (("instance", None), ("layer", scaled)):
        ours = ConvNet((6, 5, 4), 2, width=6, depth=1, norm=norm).blocks[0][1]
        for layer in (ours, peer):
            layer.weight.data, layer.bias.data = scale, shift
        torch.testing.assert_close(ours(x), peer(x) if expected is None else expected)


def test_images_of_28_pixels_are_treated_as_framed_to_32() -> None:
    images = torch.randn(2, 1, 28, 28)
    framed = functional.pad(images, (2, 2, 2, 2))
    for name in ("convnet", "alexnet", "vgg11"):
        network, larger = (build(name, (1, side, side), 4) for side in (28, 32))
        larger.load_state_dict(network.state_dict())
        torch.testing.assert_close(network(images), larger(framed))


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_an_image_is_seen_alike_alone_and_in_company(architecture: str) -> None:
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    for norm in ("instance", "layer"):
        network = small(architecture, norm).double()
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_smallest_images_reach_the_logits_and_every_parameter(architecture: str, norm: str) -> None:
    network = small(architecture, norm)
    images = torch.randn(4, 1, 8, 8, requires_grad=True)
    functional.cross_entropy(network(images), torch.arange(4)).backward()
    # A norm of single pixels would cut the way: it returns the same for every image.
    assert images.grad is not None and all(bool(image.any()) for image in images.grad)
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_every_convolutional_network_starts_from_torchs_default_law(architecture: str) -> None:
    for module in small(architecture).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1 / math.sqrt(module.weight[0].numel())  # uniform in +-bound, for weights and biases
            assert all(bool((p.abs() <= bound).all()) for p in module.parameters())
            spread = module.weight.detach().std().item() * math.sqrt(3) / bound
            assert spread == pytest.approx(1, abs=5 / math.sqrt(module.weight.numel()))
        if isinstance(module, nn.GroupNorm):
            assert bool((module.weight == 1).all()) and not module.bias.any()


def test_networks_that_do_not_fit_the_images_or_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="architecture must be convnet, alexnet, vgg11, resnet18 or vit, got 'lenet'"):
        build("lenet", (1, 8, 8), 2)
    for name, option in itertools.product(ARCHITECTURES[1:], ("width", "depth")):
        with pytest.raises(InputError, match=f"{option} must be None for {name} .*, got 3"):
            build(name, (3, 32, 32), 2, **{option: 3})
    for name in ARCHITECTURES[1:]:
        with pytest.raises(InputError, match="needs image sides of 8 pixels or more, got 7x9"):
            build(name, (1, 7, 9), 2)
    for shape in ((3, 32, 64), (3, 31, 31)):
        with pytest.raises(InputError, match="square images whose side divides"):
            build("vit", shape, 2)
    with pytest.raises(InputError, match="depth must be >= 1 and leave at least one pixel of 8x8 images, got 4"):
        ConvNet((1, 8, 8), 2, depth=4)
    with pytest.raises(InputError, match=r"depth must be >= 1 .*, got 0"):
        ConvNet((1, 8, 8), 2, depth=0, pooling="none")
    assert len(ConvNet((1, 8, 8), 2, width=4, depth=4, pooling="none").features(torch.zeros(1, 1, 8, 8)).maps) == 4


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    for fault, match in (
        ({"norm": "spectral"}, "norm must be instance, batch, group, layer or none, got 'spectral'"),
        ({"activation": "tanh"}, "activation must be relu, sigmoid or leaky_relu, got 'tanh'"),
        ({"pooling": "mean"}, "pooling must be avg, max or none, got 'mean'"),
        ({"norm": "group", "width": 6}, "width must be a multiple of 4 with norm 'group', got 6"),
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
    ):
        with pytest.raises(InputError, match=match):
            ConvNet((1, 8, 8), 2, **fault)
    with pytest.raises(InputError, match=r"norm must be .*, got 'spectral'"):
        AlexNet((1, 8, 8), 2, norm="spectral")


def test_defaults_follow_the_images_size() -> None:
    assert [default_depth(side) for side in (2, 8, 16, 28, 32, 64, 128)] == [1, 2, 2, 3, 3, 4, 5]
    assert [default_width(side) for side in (8, 27, 28, 128)] == [64, 64, 128, 128]
    assert build("convnet", (1, 8, 8), 2).classifier.in_features == 64 * 2 * 2


def test_a_user_defined_network_needs_only_its_features() -> None:
    class Tiny(FeatureNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(4, 2)

        def features(self, images: Tensor) -> Features:
            return Features((images,), functional.adaptive_avg_pool2d(images, 2).flatten(1))

    assert tuple(Tiny()(torch.zeros(3, 1, 8, 8)).shape) == (3, 2)
    with pytest.raises(TypeError, match="abstract"):
        FeatureNetwork()
