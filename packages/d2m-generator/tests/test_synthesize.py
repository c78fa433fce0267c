from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_matching import ConvNet, DistilledSet, EvaluateConfig, Preprocessing
from d2m_generator.generators.gan import ConditionalGAN
from d2m_generator.generators.generator import ModuleGenerator
from d2m_generator.images.evaluation import evaluate_generator
from d2m_generator.images.quality import Judge, frechet_distance, inception_fid, precision_and_coverage
from d2m_generator.images.stream import StreamedSet, stream
from d2m_generator.images.synthesize import synthesize
from scipy import linalg
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor, nn

QUICK = EvaluateConfig(networks=2, epochs=12, batch=16, width=8, device="cpu", augment=())


class Columns(nn.Module):
    """A bright pair of columns for every class, in noise: what a perfect generator of `data` would make."""

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        images = 0.3 * torch.special.ndtr(noise.view(-1, 1, 8, 8))
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, :, 3 * label : 3 * label + 2] += 0.6
        return images


def perfect() -> ModuleGenerator:
    return ModuleGenerator(Columns(), 3, (1, 8, 8), (64,), value_range=(0.0, 1.0))


def data(count: int = 60) -> ImageSet:
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = 0.3 * random.random((count, 1, 8, 8), dtype=np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, :, 3 * label : 3 * label + 2] += 0.6
    return ImageSet.of(images, labels, images[:30], labels[:30], ("a", "b", "c"), source="thirds")


def test_a_set_is_class_after_class_and_larger_ones_begin_with_it(tmp_path: Path) -> None:
    few, more = (synthesize(perfect(), ipc, seed=3, data=data()) for ipc in (2, 300))
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2] and few.classes == ("a", "b", "c") and few.ipc == 2
    for label in range(3):
        torch.testing.assert_close(few.images[2 * label : 2 * label + 2], more.images[300 * label : 300 * label + 2])
    pixels = few.pixels()
    assert [int(np.argmax([image[0, :, 3 * k : 3 * k + 2].mean() for k in range(3)])) for image in pixels] == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip
    few.save(tmp_path / "s.safetensors")
    assert torch.equal(DistilledSet.load(tmp_path / "s.safetensors").images, few.images)
    assert not torch.equal(few.images, synthesize(perfect(), 2, seed=4, data=data()).images)


def test_the_same_images_in_one_process_and_in_two(tmp_path: Path) -> None:
    ConditionalGAN(3, (1, 8, 8), width=4, seed=1).save(tmp_path / "g.safetensors")
    script = textwrap.dedent(
        f"""
        import sys, torch
        from d2m_generator import ConditionalGAN
        from d2m_generator.generators.generator import noise_of
        rank = int(sys.argv[1])
        gan = ConditionalGAN.load({str(tmp_path / "g.safetensors")!r})
        numbers = range(rank, 4, 2)  # every process makes every second image of each class
        noise = torch.cat([noise_of(numbers, gan.noise_shape, 7, label) for label in range(3)])
        with torch.no_grad():
            made = gan.sample(torch.arange(3).repeat_interleave(2), noise=noise)
        torch.save(made, {str(tmp_path)!r} + f"/{{rank}}.pt")
        """
    )
    jobs = [subprocess.Popen([sys.executable, "-c", script, str(rank)]) for rank in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    together = torch.stack([part.view(3, 2, 1, 8, 8) for part in parts], dim=2).flatten(1, 2)
    images = synthesize(ConditionalGAN.load(tmp_path / "g.safetensors"), 4, seed=7).images.view(3, 4, 1, 8, 8)
    torch.testing.assert_close(together * 2 - 1, images, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("selection", ["herding", "diverse"])
def test_choices_are_made_among_candidates_and_do_what_they_say(selection: str) -> None:
    chosen = synthesize(perfect(), 3, 1, selection, data=data(), candidates=25)  # type: ignore[arg-type]
    pool = synthesize(perfect(), 75, 1, data=data())
    plain = synthesize(perfect(), 3, 1, data=data())
    for label in range(3):
        mine = chosen.images[3 * label : 3 * label + 3].flatten(1)
        all_of = pool.images[75 * label : 75 * label + 75].flatten(1)
        assert all(bool((all_of == row).all(dim=1).any()) for row in mine)
        first = plain.images[3 * label : 3 * label + 3].flatten(1)
        if selection == "herding":
            apart = [float((rows.mean(dim=0) - all_of.mean(dim=0)).norm()) for rows in (mine, first)]
            assert apart[0] < apart[1]
        else:
            assert float(torch.pdist(mine).min()) >= float(torch.pdist(first).min())
    by_class = synthesize(perfect(), 2, 1, selection, data=data(), features=lambda x: x.mean(dim=(2, 3)))  # type: ignore[arg-type]
    assert len(by_class) == 6


@pytest.mark.parametrize("selection", ["herding", "diverse"])
def test_few_images_are_selected_among_64(selection: str) -> None:
    chosen = synthesize(perfect(), 1, 1, selection, data=data())  # type: ignore[arg-type]
    assert torch.equal(chosen.images, synthesize(perfect(), 1, 1, selection, data=data(), candidates=64).images)  # type: ignore[arg-type]


def test_soft_labels_are_a_teacher_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = ConvNet((1, 8, 8), 3, width=4)
    soft = synthesize(perfect(), 2, data=data(), teacher=teacher, temperature=2.0)
    with torch.no_grad():
        wanted = (teacher(soft.images) / 2).softmax(dim=1)
    assert soft.soft_labels is not None
    torch.testing.assert_close(soft.soft_labels, wanted)
    streamed = stream(perfect(), 2, tmp_path / "s", data=data(), teacher=teacher, temperature=2.0)
    assert streamed.soft_labels is not None
    np.testing.assert_allclose(streamed.soft_labels, wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_a_stream_is_the_same_images_rounded_to_bytes(tmp_path: Path) -> None:
    streamed = stream(perfect(), 300, tmp_path / "s", seed=3, data=data())
    whole = synthesize(perfect(), 300, seed=3, data=data())
    assert isinstance(streamed.pixels, np.memmap) and len(streamed) == 900
    assert np.abs(streamed.pixels / np.float32(255) - whole.pixels()).max() <= 0.5 / 255 + 1e-6
    image, label = streamed[301]
    assert label == 1 and image.shape == (1, 8, 8)
    again = StreamedSet.open(tmp_path / "s")
    few = again.distilled(Preprocessing.fit(data()), ipc=2)
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert float((few.images - synthesize(perfect(), 2, seed=3, data=data()).images).abs().max()) < 0.02
    with pytest.raises(InputError, match="has 300 images; expected: ipc = 301"):
        again.distilled(Preprocessing.fit(data()), ipc=301)
    with pytest.raises(InputError, match=r"holds a run with .*ipc=300, not 1"):
        stream(perfect(), 1, tmp_path / "s", seed=3, data=data())


def test_a_stream_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Columns):
        def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
            return super().forward(noise, labels) * torch.where(labels == 2, torch.nan, 1.0).view(-1, 1, 1, 1)

    broken = ModuleGenerator(Broken(), 3, (1, 8, 8), (64,))  # the adapter tries an image of class 0
    for job in (lambda: stream(broken, 5, tmp_path / "s"), lambda: synthesize(broken, 5)):
        with pytest.raises(InputError, match="a pixel of class 2 is not finite"):
            job()
    assert list(tmp_path.iterdir()) == []


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_synthesize import InputError, perfect, stream
try:
    stream(perfect(), 4000, Path(sys.argv[2]) / "s")
except InputError as error:
    print(error)
"""


def test_a_full_disk_is_one_error_and_no_signal(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small disk")
    try:
        command = [sys.executable, "-c", FULL, str(Path(__file__).parent), str(disk)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr  # minus 7 after a bus error
        assert "images.npy cannot be written: No space left on device; expected: free space there" in result.stdout
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["images.npy", "soft_labels.npy"])
def test_space_is_reserved_before_any_image_is_generated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, start: int, size: int) -> None:
        assert size == os.fstat(handle).st_size > 0
        if os.path.basename(os.readlink(f"/proc/self/fd/{handle}")) == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Forbidden(Columns):
        def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
            assert len(labels) == 1, "generates images"  # the adapter tries one
            return super().forward(noise, labels)

    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=f"{name} cannot be written: No space left on device; expected: free space"):
        stream(ModuleGenerator(Forbidden(), 3, (1, 8, 8), (64,)), 2, tmp_path / "s", teacher=teacher)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, None])
def test_where_space_cannot_be_reserved_it_is_filled(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stream(perfect(), 40, tmp_path / "a")

    def unsupported(handle: int, start: int, size: int) -> None:
        raise OSError(number, os.strerror(number or 0))

    if number is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    filled = stream(perfect(), 40, tmp_path / "b")
    assert (filled.pixels == whole.pixels).all()
    with open(tmp_path / "b" / "images.npy", "rb") as file:
        assert os.fstat(file.fileno()).st_blocks * 512 >= 120 * 64  # no hole is left


@pytest.mark.parametrize("name", ["set.json", "images.npy", "labels.npy"])
def test_a_damaged_stream_is_refused(name: str, tmp_path: Path) -> None:
    stream(perfect(), 2, tmp_path / "s")
    (tmp_path / "s" / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"cannot be read|does not exist"):
        StreamedSet.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"ipc": 0}, "ipc must be a whole number >= 1 or a tuple, each a whole number >= 1, got 0"),
        ({"ipc": (1, 2)}, "2 numbers of images for 3 classes"),
        ({"labels": (1, 3)}, "labels 1, 3; expected: distinct numbers from 0 to 2"),
        ({"labels": (1, 1)}, "labels 1, 1"),
        ({"selection": "best"}, "selection must be random, herding or diverse, got 'best'"),
        ({"candidates": 0}, "candidates must be a whole number >= 1, got 0"),
        ({"temperature": 0.0}, "temperature must be a number > 0, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
    ],
)
def test_options_outside_what_is_accepted(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(perfect(), **{"ipc": 1, **words})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a generator of 3 classes"):
        synthesize(ConditionalGAN(3, (1, 16, 16), width=2), 1, data=data())


@pytest.mark.parametrize("protocol", ["fixed", "regenerate"])
def test_evaluation_names_its_protocol_and_goes_on(protocol: str, tmp_path: Path) -> None:
    found = evaluate_generator(perfect(), data(), 4, QUICK, tmp_path / "e", protocol=protocol)  # type: ignore[arg-type]
    assert found.evaluation.mean > 0.8 and f"({protocol}, 4 images per class)" in str(found)
    assert (found.images is None) == (protocol == "regenerate")
    again = evaluate_generator(perfect(), data(), 4, QUICK, tmp_path / "e", protocol=protocol)  # type: ignore[arg-type]
    fresh = evaluate_generator(perfect(), data(), 4, QUICK, protocol=protocol)  # type: ignore[arg-type]
    assert again.evaluation == found.evaluation == fresh.evaluation
    with pytest.raises(InputError, match="protocol must be fixed or regenerate, got 'best'"):
        evaluate_generator(perfect(), data(), 4, QUICK, protocol="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="with the protocol regenerate"):
        evaluate_generator(perfect(), data(), 4, QUICK, protocol="regenerate", selection="herding")


@pytest.mark.parametrize("protocol", ["fixed", "regenerate"])
def test_soft_labels_of_a_teacher_are_the_targets(protocol: str) -> None:
    class Certain(nn.Module):  # says that every image is of class 2
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 0.0, 20.0]).expand(len(x), 3)

    soft = dataclasses.replace(QUICK, labels="soft")
    found = evaluate_generator(perfect(), data(), 4, soft, protocol=protocol, teacher=Certain())  # type: ignore[arg-type]
    assert found.evaluation.mean == pytest.approx(1 / 3, abs=0.01)  # the networks learn that everything is class 2
    for config, teacher, message in (
        (soft, None, "labels soft without a teacher"),
        (QUICK, Certain(), "labels hard with a teacher"),
        (dataclasses.replace(QUICK, labels="views"), None, "labels views of generated images"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_generator(perfect(), data(), 4, config, protocol=protocol, teacher=teacher)  # type: ignore[arg-type]


def test_a_pickled_set_is_the_path_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(stream(perfect(), 500, "s", data=data()))
    assert len(content) < 500
    monkeypatch.chdir("/")
    again = pickle.loads(content)
    assert len(again) == 1500 and torch.equal(again[1400][0], StreamedSet.open(tmp_path / "s")[1400][0])


def test_the_frechet_distance_is_the_textbook_s() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(300, 5)), random.normal(1, 2, size=(200, 5)) @ random.normal(size=(5, 5))
    first, second = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(first @ second).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    flat = np.concatenate([a, np.zeros((300, 3))], axis=1)  # singular
    assert frechet_distance(flat, flat + 1) == pytest.approx(8)
    for x, y, message in ((a, b[:, :2], "shapes"), (a[:1], b, "shapes"), (a * np.nan, b, "not finite")):
        with pytest.raises(InputError, match=message):
            frechet_distance(x, y)


def test_a_judge_tells_a_perfect_generator_from_noise(tmp_path: Path) -> None:
    judge = Judge(data(), EvaluateConfig(epochs=20, batch=16, width=8, device="cpu"), tmp_path / "j.safetensors")
    good = judge(perfect(), images=90)
    bad = judge(ConditionalGAN(3, (1, 8, 8), width=4), images=90)
    assert good.agreement > 0.9 > bad.agreement and good.frechet < 0.2 * bad.frechet
    assert "of the images are of their class" in str(good)


def test_inception_s_weights_are_a_local_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"w\.pth is missing"):
        inception_fid(perfect(), data(), tmp_path / "w.pth")


def test_precision_and_coverage_are_their_definitions() -> None:
    random = np.random.default_rng(0)
    real, generated = random.normal(size=(1003, 2)), 0.6 * random.normal(size=(50, 2)) + 0.3
    generated[:10] += 40  # far from all real points
    inside, covered = set(), set()
    for number, point in enumerate(real):
        radius = sorted(float(np.linalg.norm(point - other)) for other in real)[5]  # the first is the point itself
        near = [n for n, other in enumerate(generated) if float(np.linalg.norm(point - other)) <= radius]
        inside.update(near)
        covered.update([number] * bool(near))
    found = precision_and_coverage(real, generated)
    assert found == (len(inside) / 50, len(covered) / 1003) and found[0] <= 0.8
    with pytest.raises(InputError, match="5 real points"):
        precision_and_coverage(real[:5], generated)
