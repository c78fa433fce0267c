from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from subclass_kd import (
    ClassKDLoss,
    CrossEntropy,
    Hierarchy,
    SubclassKDLoss,
    SubclassSet,
    TeacherLogits,
    TrainConfig,
    Views,
    build,
    distill,
    evaluate,
    load_into,
    predict,
    train_teacher,
)
from subclass_kd.teacher import live
from torch import nn

H = Hierarchy(np.array([0, 1, 0, 1]), tuple("abcd"), ("x", "y"))
FAST = TrainConfig(epochs=3, batch_size=16, views=Views(3), device="cpu", checkpoint_every=1)


def data(*, difficulty: bool = False) -> SubclassSet:
    """Images whose brightest quarter is their subclass."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 4
    images = 0.4 * random.random((120, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 0.5
    hard = random.random(80) if difficulty else None
    return SubclassSet.of((images[:80], labels[:80]), (images[80:], labels[80:]), H, difficulty=hard)


def network(width: int = 4, outputs: int = 4, seed: int = 0) -> nn.Module:
    return build("convnet", (1, 8, 8), outputs, width=width, seed=seed)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_a_teacher_learns_and_its_weights_load_from_its_run_folder(tmp_path: Path) -> None:
    config = TrainConfig(epochs=25, batch_size=16, views=Views(4), device="cpu")
    teacher = train_teacher(network(8), data(), config, tmp_path)
    assert evaluate(teacher, data()).accuracy > 0.9
    assert same(load_into(network(8, seed=3), tmp_path), teacher)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 26)) and rows[-1]["loss"] < rows[0]["loss"]
    with pytest.raises(InputError, match="another network's weights"):
        load_into(network(4), tmp_path)


def test_cached_logits_are_those_of_the_teacher_on_the_same_views(tmp_path: Path) -> None:
    teacher, images, views = network(8, seed=1).eval(), data(), Views(4, flip=True, seed=5)
    cached = TeacherLogits.compute(teacher, images.train, views, tmp_path, outputs=4)
    running = live(teacher, images.train, views)
    rows = np.array([5, 0, 33])
    for view in range(4):
        viewed = views.apply(images.train.batch(rows), view, rows, len(images.train))
        torch.testing.assert_close(cached(view, rows), teacher(viewed).detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(cached(view, rows), running(view, rows), rtol=1e-5, atol=1e-5)
    assert isinstance(np.load(tmp_path / "view-0001.npy", mmap_mode="r"), np.memmap)


def test_an_interrupted_computation_of_logits_resumes_and_other_logits_are_refused(tmp_path: Path) -> None:
    teacher, images, views = network(8), data(), Views(3)
    TeacherLogits.compute(teacher, images.train, views, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.npy")}
    (tmp_path / "view-0002.npy").unlink()
    with pytest.raises(InputError, match=r"view-0002\.npy does not exist"):
        TeacherLogits(tmp_path)
    TeacherLogits.compute(teacher, images.train, views, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.npy")} == before
    with pytest.raises(InputError, match="views with seed 0, not 1"):
        TeacherLogits.compute(teacher, images.train, Views(3, seed=1), tmp_path)
    with pytest.raises(InputError, match=r"outputs of shape \(4,\); expected: \(5,\)"):
        TeacherLogits.compute(teacher, images.train, views, tmp_path / "b", outputs=5)
    with pytest.raises(InputError, match=r"cannot be read|does not exist"):
        TeacherLogits(tmp_path / "nowhere")


def test_a_student_learns_the_same_from_a_teacher_and_from_its_cached_logits(tmp_path: Path) -> None:
    teacher = train_teacher(network(8, seed=1), data(), FAST)
    logits = TeacherLogits.compute(teacher, data().train, FAST.views, tmp_path / "logits")
    objective = SubclassKDLoss(H, 4.0, 0.9)
    students = [distill(t, network(), data(), objective, FAST) for t in (teacher, logits, tmp_path / "logits")]
    for other in students[1:]:
        for name, tensor in students[0].state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert same(students[1], students[2])
    alone = distill(None, network(), data(), CrossEntropy(H), FAST)
    assert not same(alone, students[1])


def test_a_custom_objective_trains_a_student() -> None:
    class Nearest(nn.Module):
        needs_teacher = True

        def forward(self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return (student - teacher).square().mean()

    teacher = train_teacher(network(8, seed=1), data(), FAST)
    config = TrainConfig(epochs=60, batch_size=16, views=Views(1), device="cpu", lr=1e-2)
    student = distill(teacher, network(8), data(), Nearest(), config)
    apart = (predict(student, data().test) - predict(teacher, data().test)).square().mean()
    before = (predict(network(8), data().test) - predict(teacher, data().test)).square().mean()
    assert float(apart) < 0.3 * float(before)


def test_views_are_fixed_within_bounds_and_the_first_is_the_image() -> None:
    images, rows = data().train.batch(range(10)), np.arange(10)
    views = Views(3, shift=0.2, scale=0.1, seed=1)
    assert torch.equal(views.apply(images, 0, rows, 10), images)
    assert torch.equal(views.apply(images, 2, rows, 10)[3:5], views.apply(images[3:5], 2, rows[3:5], 10))
    assert not torch.equal(views.apply(images, 1, rows, 10), views.apply(images, 2, rows, 10))
    numbers = Views(2, shift=0.2, scale=0.1, flip=True).table(1, 5000)
    assert np.abs(numbers[:, 2:]).max() <= 0.4 and np.abs(numbers[:, 0] - 1).max() <= 0.1
    assert 0.4 < (numbers[:, 1] == -1).mean() < 0.6
    mirrored = Views(2, shift=0, scale=0, flip=True)
    chosen = mirrored.table(1, 10)[:, 1] == -1
    flipped = mirrored.apply(images, 1, rows, 10)
    expected = torch.where(torch.from_numpy(chosen)[:, None, None, None], images.flip(-1), images)
    torch.testing.assert_close(flipped, expected, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_rises_over_a_tenth_of_the_steps_and_falls_along_a_cosine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def recorded(optimizer: torch.optim.AdamW, *args: object, **options: object) -> object:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    config = TrainConfig(epochs=10, batch_size=17, lr=0.1, views=Views(1), device="cpu")
    distill(None, network(2), data(), CrossEntropy(H), config)
    falling = 0.05 * (1 + np.cos(np.pi * np.arange(1, 37) / 37))  # 68 images: 40 steps, 4 of them rising
    np.testing.assert_allclose(rates, [0.025, 0.05, 0.075, 0.1, *falling], rtol=1e-12)


def test_an_interrupted_run_resumes_bit_identically(tmp_path: Path) -> None:
    class Interrupted(CrossEntropy):
        _batches = 0

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            self._batches += 1
            if self._batches == 10:  # in the third of five epochs
                raise KeyboardInterrupt
            return super().forward(*inputs)

    config = dataclasses.replace(FAST, epochs=5, patience=3)
    whole, objective = distill(None, network(), data(), CrossEntropy(H), config), Interrupted(H)
    with pytest.raises(KeyboardInterrupt):
        distill(None, network(), data(), objective, config, tmp_path)
    assert same(whole, distill(None, network(), data(), objective, config, tmp_path))
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    config = TrainConfig(epochs=40, batch_size=16, views=Views(2), device="cpu", patience=4)
    stopped = train_teacher(network(8), data(), config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    f1 = [row["validation_f1"] for row in rows]
    best = int(np.argmax(f1))
    assert len(rows) < 40 and len(rows) - 1 - best == 4
    assert evaluate(stopped, data(), "validation").f1 == pytest.approx(f1[best])


def test_a_curriculum_changes_the_order_and_needs_difficulties() -> None:
    config = TrainConfig(epochs=4, batch_size=16, views=Views(1), device="cpu", curriculum="linear")
    student = distill(None, network(), data(difficulty=True), CrossEntropy(H), config)
    assert not same(student, distill(None, network(), data(difficulty=True), CrossEntropy(H), FAST))
    with pytest.raises(InputError, match="a curriculum without difficulties"):
        distill(None, network(), data(), CrossEntropy(H), config)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_identically(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch
        torch.set_num_threads(1)
        from test_train import H, data, network
        from subclass_kd import CrossEntropy, TrainConfig, Views, distill

        config = TrainConfig(epochs=60, batch_size=16, views=Views(3), device="cpu", patience=50, checkpoint_every=2)
        distill(None, network(), data(), CrossEntropy(H), config, sys.argv[1])
        """)
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, str(script), str(whole)], check=True)
    process = subprocess.Popen([sys.executable, str(script), str(killed)])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(path.stem[5:]) >= 6 for path in (killed / "checkpoints").glob("step-*.safetensors")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([sys.executable, str(script), str(killed)], check=True)
    assert same(load_into(network(), whole), load_into(network(), killed))

    def lines(folder: Path) -> list[dict[str, object]]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    assert lines(whole) == lines(killed)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    # Without batch norm the gradient of a step is the mean over all its images, in however many processes.
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch
        from test_train import H, data
        from subclass_kd import CrossEntropy, TrainConfig, Views, distill

        torch.manual_seed(0)
        from torch.nn import Flatten, Linear, Tanh
        network = torch.nn.Sequential(Flatten(), Linear(64, 8), Tanh(), Linear(8, 4))
        config = TrainConfig(epochs=3, batch_size=17, views=Views(2), device="cpu")
        distill(None, network, data(), CrossEntropy(H), config, sys.argv[1])
        """)
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, str(script), str(tmp_path / "one")], check=True, env=environment)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "two")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plain = [nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4)) for _ in range(2)]
    one, two = (load_into(net, tmp_path / name) for net, name in zip(plain, ("one", "two"), strict=True))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number >= 1, got 0"),
        ({"patience": -1}, "patience must be a whole number >= 0, got -1"),
        ({"lr": 0.0}, "lr must be a number > 0, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be a number >= 0, got -1.0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"curriculum": "cosine"}, "curriculum must be none, linear, root or step, got 'cosine'"),
        ({"curriculum_start": 0.0}, r"curriculum_start must be a number in \(0, 1\], got 0.0"),
        ({"precision": "float16"}, "precision must be float32 or bfloat16, got 'float16'"),
    ],
)
def test_settings_outside_what_is_accepted_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**options)


def test_a_teacher_of_the_classes_distils_by_conventional_distillation(tmp_path: Path) -> None:
    teacher = network(8, outputs=2)
    logits = TeacherLogits.compute(teacher, data().train, FAST.views, tmp_path)
    cached, live_one = (distill(source, network(), data(), ClassKDLoss(H), FAST) for source in (logits, teacher))
    assert same(cached, live_one)
    with pytest.raises(InputError, match=r"the teacher's logits have shape .* subclasses"):
        distill(logits, network(), data(), SubclassKDLoss(H), FAST)


def test_networks_and_logits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"the network has outputs of shape \(1, 3\) for one image; expected: \(1, 4\)"
    ):
        train_teacher(network(outputs=3), data(), FAST)
    with pytest.raises(InputError, match=r"the teacher has outputs of shape \(1, 3\)"):
        distill(network(outputs=3), network(), data(), SubclassKDLoss(H), FAST)
    with pytest.raises(InputError, match="SubclassKDLoss needs a teacher, got None"):
        distill(None, network(), data(), SubclassKDLoss(H), FAST)
    logits = TeacherLogits.compute(network(8), data().train, Views(2), tmp_path)
    with pytest.raises(InputError, match="of 2 views; expected: 3"):
        distill(logits, network(), data(), SubclassKDLoss(H), FAST)
    other = TrainConfig(epochs=1, views=Views(2, shift=0.3), device="cpu")
    with pytest.raises(InputError, match=r"of views with shift 0\.1; expected: 0\.3"):
        distill(logits, network(), data(), SubclassKDLoss(H), other)
    with pytest.raises(InputError, match="count must be a whole number >= 1, got 0"):
        Views(0)
    with pytest.raises(InputError, match=r"shift must be a number in \[0, 1\), got 1.0"):
        Views(shift=1.0)


@pytest.mark.parametrize("patience", [0, 2])
def test_a_non_finite_loss_ends_the_training_with_its_epoch(patience: int) -> None:
    class Broken(nn.Module):
        needs_teacher = False

        def forward(self, student: torch.Tensor, teacher: None, labels: torch.Tensor) -> torch.Tensor:
            return student.sum() * float("nan")

    with pytest.raises(InputError, match=r"the loss is nan at step 1, seed 0; .* an lr below 0\.002"):
        distill(None, network(), data(), Broken(), dataclasses.replace(FAST, patience=patience))
