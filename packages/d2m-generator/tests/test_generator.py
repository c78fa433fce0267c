from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from d2m_generator.generators.gan import ConditionalGAN, Discriminator, halvings
from d2m_generator.generators.generator import Generator, ModuleGenerator, noise_of
from d2m_generator.generators.storage import load_generator, save_generator
from hypothesis import given, settings, strategies as st
from sextet_common import checkpoint
from sextet_common.errors import InputError
from torch import Tensor, nn


class Painter(nn.Module):
    """An image whose grey tells its class."""

    def __init__(self, low: float = -1.0, high: float = 1.0, *, one_hot: bool = False) -> None:
        super().__init__()
        self.low, self.high, self.one_hot = low, high, one_hot
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        number = labels.argmax(dim=1) if self.one_hot else labels
        grey = self.low + (self.high - self.low) * number.to(noise.dtype) / 4
        return self.scale * grey[:, None, None, None] + 0 * noise[:, :1, None, None].expand(-1, 3, 8, 8)


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("one_hot", [False, True])
def test_any_module_is_a_generator_whatever_its_black_and_white(
    value_range: tuple[float, float], one_hot: bool
) -> None:
    painter = Painter(*value_range, one_hot=one_hot)
    generator = ModuleGenerator(painter, 5, (3, 8, 8), (2,), value_range=value_range, one_hot=one_hot)
    assert isinstance(generator, Generator)
    pixels = generator.sample(torch.tensor([0, 2, 4]), seed=0)
    assert pixels.shape == (3, 3, 8, 8)
    torch.testing.assert_close(pixels.mean(dim=(1, 2, 3)).detach(), torch.tensor([0.0, 0.5, 1.0]))
    pixels[2].sum().backward()
    assert painter.scale.grad is not None and float(painter.scale.grad) != 0


def test_noise_of_a_number_does_not_depend_on_the_others() -> None:
    whole = noise_of(range(20), (3, 2), seed=4)
    torch.testing.assert_close(noise_of([7, 3], (3, 2), seed=4), whole[[7, 3]], rtol=0, atol=0)
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, noise_of(range(20), (3, 2), seed=5))
    many = noise_of(range(2000), (8,), seed=0)
    assert abs(float(many.mean())) < 0.03 and abs(float(many.std()) - 1) < 0.03


@given(seed=st.integers(0, 2**31), cut=st.integers(1, 7))
@settings(max_examples=10, deadline=None)
def test_an_image_does_not_depend_on_its_batch(seed: int, cut: int) -> None:
    gan = ConditionalGAN(4, (1, 8, 8), width=4, noise=8)
    labels, noise = torch.arange(8) % 4, noise_of(range(8), (8,), seed)
    whole = gan.sample(labels, noise=noise)
    parts = torch.cat([gan.sample(labels[:cut], noise=noise[:cut]), gan.sample(labels[cut:], noise=noise[cut:])])
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 24), (3, 128, 128)])
def test_a_gan_makes_images_of_every_size(shape: tuple[int, int, int]) -> None:
    gan = ConditionalGAN(3, shape, width=2)
    labels = torch.tensor([0, 2])
    images = gan.sample(labels, seed=1).detach()
    assert images.shape == (2, *shape) and float(images.min()) >= 0 and float(images.max()) <= 1
    assert gan.discriminator(2)(2 * images - 1, labels).shape == (2,)


def test_the_side_s_halvings() -> None:
    assert [halvings((1, side, side)) for side in (8, 28, 32, 128)] == [
        (1, (4, 4)),
        (2, (7, 7)),
        (3, (4, 4)),
        (5, (4, 4)),
    ]
    for shape in ((1, 7, 7), (1, 30, 30), (1, 256, 256), (1, 8, 9)):
        with pytest.raises(InputError, match="4 to 7 times a power of two"):
            ConditionalGAN(2, shape)


def test_gradients_reach_every_parameter_and_the_noise() -> None:
    gan = ConditionalGAN(3, (1, 16, 16), width=4, noise=5)
    noise = noise_of(range(6), (5,), 0).requires_grad_()
    gan.sample(torch.arange(6) % 3, noise=noise).square().sum().backward()
    assert noise.grad is not None and bool((noise.grad != 0).any(dim=1).all())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in gan.parameters())


def test_the_discriminator_is_a_projection_with_bounded_layers() -> None:
    torch.manual_seed(0)
    judge = Discriminator(3, (1, 16, 16), 4)
    images = torch.randn(5, 1, 16, 16)
    for _ in range(30):  # the power iteration settles
        judge(images, torch.arange(5) % 3)
    judge.eval()
    for module in judge.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
            assert float(largest.detach()) == pytest.approx(1, rel=0.1)
    x = images
    for block in judge.blocks:
        x = block(x)
    features = torch.relu(judge.last(x)).sum(dim=(2, 3))
    scores = [judge(images, torch.full((5,), label)) for label in range(3)]
    difference = (judge.embedding.weight[1] - judge.embedding.weight[0]) @ features.T
    torch.testing.assert_close(scores[1] - scores[0], difference, rtol=1e-4, atol=1e-5)


def test_a_gan_is_saved_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path
    gan = ConditionalGAN(4, (3, 12, 12), width=6, noise=7, embedding=5, seed=2)
    assert save_generator(gan, folder / "g") == folder / "g"
    again = load_generator(folder / "g")
    labels = torch.arange(4)
    assert torch.equal(gan.sample(labels, seed=3), again.sample(labels, seed=3))
    with pytest.raises(InputError, match="holds no generator"):
        load_generator(folder / "none")
    with pytest.raises(InputError, match="a ModuleGenerator cannot be saved"):
        save_generator(ModuleGenerator(Painter(), 5, (3, 8, 8), (2,)), folder / "m")
    (folder / "g" / "generator.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"generator\.safetensors"):
        load_generator(folder / "g")


def test_a_checkpoint_of_another_architecture_names_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    gan = ConditionalGAN(4, (1, 8, 8), width=6)
    gan.save(path)
    loaded = checkpoint.load(path, "torch")
    loaded.meta["settings"]["width"] = 8
    checkpoint.save(path, loaded.arrays, loaded.meta)
    with pytest.raises(InputError, match=r"another architecture: it differs in blocks\.0"):
        ConditionalGAN.load(path)
    checkpoint.save(path, {"x": np.zeros(1)}, {"kind": "teacher"})
    with pytest.raises(InputError, match="a checkpoint of teacher"):
        ConditionalGAN.load(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"labels": torch.tensor([5])}, "label 5; expected: 0 to 4"),
        ({"labels": torch.tensor([-1])}, "label -1"),
        ({"labels": torch.tensor([0.5])}, "labels are torch.float32"),
        ({"seed": None}, "no seed and no noise"),
        ({"noise": torch.zeros(1, 2)}, "both a seed and noise"),
        ({"seed": None, "noise": torch.zeros(1, 3)}, r"noise of shape \(1, 3\)"),
    ],
)
def test_what_cannot_be_sampled(words: dict[str, object], message: str) -> None:
    generator = ModuleGenerator(Painter(), 5, (3, 8, 8), (2,))
    with pytest.raises(InputError, match=message):
        generator.sample(**{"labels": torch.tensor([0]), "seed": 0, **words})  # type: ignore[arg-type]


def test_modules_of_another_shape_and_ranges_are_refused() -> None:
    with pytest.raises(InputError, match=r"images of shape \(3, 8, 8\); expected: \(1, 8, 8\)"):
        ModuleGenerator(Painter(), 5, (1, 8, 8), (2,))
    with pytest.raises(InputError, match="value_range"):
        ModuleGenerator(Painter(), 5, (3, 8, 8), (2,), value_range=(1.0, 1.0))
    with pytest.raises(InputError, match="width must be a whole number >= 1, got 0"):
        ConditionalGAN(2, (1, 8, 8), width=0)
