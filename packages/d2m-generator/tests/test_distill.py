from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_matching import Preprocessing, SiameseAugmentation
from d2m_generator.generators.diffusion import DiffusionGenerator
from d2m_generator.generators.gan import ConditionalGAN
from d2m_generator.generators.generator import ImageGenerator
from d2m_generator.generators.storage import load_generator
from d2m_generator.training.config import D2MConfig, PretrainConfig
from d2m_generator.training.distill import D2M, learning_rate
from d2m_generator.training.matching import MatchingLoss
from d2m_generator.training.pool import Pool, PoolConfig
from d2m_generator.training.pretrain import pretrain
from sextet_common import checkpoint
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import nn

POOL = PoolConfig(networks=2, untrained=0.5, epochs=2, trained_on=30, refresh_every=3, width=8)
FAST = D2MConfig(steps=6, images=3, real_batch=8, pool=POOL, checkpoint_every=2, sample_every=3, device="cpu")
PRE = PretrainConfig(steps=4, batch_size=12, checkpoint_every=2, sample_every=2, device="cpu")


def data(count: int = 60) -> ImageSet:
    """Images whose brightest third is their class."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = 0.3 * random.random((count, 1, 8, 8), dtype=np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, :, 3 * label : 3 * label + 2] += 0.6
    return ImageSet.of(images, labels, images[:30], labels[:30], ("a", "b", "c"), source="thirds")


def gan(seed: int = 0) -> ConditionalGAN:
    return ConditionalGAN(3, (1, 8, 8), width=4, noise=8, seed=seed)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_distillation_lowers_its_loss_and_leaves_a_run(tmp_path: Path) -> None:
    config = dataclasses.replace(FAST, steps=40, lr=5e-3, pool=dataclasses.replace(POOL, refresh_every=0))
    made = D2M(config).fit(gan(), data(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert same(load_generator(tmp_path), made) and not same(made, gan())
    assert all((tmp_path / name).exists() for name in ("samples.png", "loss.png", "samples-000039.png"))
    real = torch.stack([torch.tensor(data().train_images[data().train_labels == k].mean(axis=0)) for k in range(3)])
    apart = [
        float((g.sample(torch.arange(3).repeat(20), seed=0).detach().view(20, 3, 1, 8, 8).mean(dim=0) - real).norm())
        for g in (gan(), made)
    ]
    assert apart[1] < apart[0]


@pytest.mark.parametrize("job", ["pretrain", "distill", "denoise", "consistency"])
def test_a_run_in_two_parts_is_the_run_in_one(job: str, tmp_path: Path) -> None:
    def run(steps: int | None, out: Path | None) -> nn.Module:
        if job == "distill":
            config = FAST if steps is None else dataclasses.replace(FAST, steps=steps)
            return D2M(config).fit(gan(), data(), out)
        generator = {
            "pretrain": gan,
            "denoise": lambda: DiffusionGenerator.denoising(3, (1, 8, 8), width=8, steps=2),
            "consistency": lambda: DiffusionGenerator.consistency(3, (1, 8, 8), width=8),
        }[job]()
        return pretrain(generator, data(), PRE, out)

    whole = run(None, None)
    out = tmp_path / "run"
    run(None, out)
    for path in sorted((out / "checkpoints").iterdir())[-1:]:  # as if it had been killed before the end
        path.unlink()
    shutil.rmtree(out / "generator")
    again = run(None, out)
    assert same(whole, again)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == sorted(
        {json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()}
    )


@pytest.mark.parametrize("make", [gan, lambda: DiffusionGenerator.denoising(3, (1, 8, 8), width=8, steps=2)])
def test_more_steps_continue_a_pretraining_bit_identically(make: Callable[[], ImageGenerator], tmp_path: Path) -> None:
    short = pretrain(make(), data(), dataclasses.replace(PRE, steps=2), tmp_path)
    again = pretrain(make(), data(), PRE, tmp_path)
    whole = pretrain(make(), data(), PRE)
    assert same(again, whole) and not same(again, short) and same(load_generator(tmp_path), whole)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"]["steps"] == 4 and config["earlier"] == [{"steps_done": 2, "config": {"steps": 2}}]
    with pytest.raises(InputError, match="has 4 steps done, not 3; expected: steps >= 4"):
        pretrain(make(), data(), dataclasses.replace(PRE, steps=3), tmp_path)


def test_where_a_schedule_depends_on_the_steps_their_number_identifies_the_run(tmp_path: Path) -> None:
    def consistency(steps: int) -> None:
        generator = DiffusionGenerator.consistency(3, (1, 8, 8), width=8)
        pretrain(generator, data(), dataclasses.replace(PRE, steps=steps), tmp_path / "c")

    def distill(steps: int) -> None:
        D2M(dataclasses.replace(FAST, steps=steps)).fit(gan(), data(), tmp_path / "d")

    for job in (consistency, distill):
        job(1)
        with pytest.raises(InputError, match="steps=1, not 2"):
            job(2)
    steps, done = (learning_rate(1e-3, 5, steps) for steps in (6, 12))
    assert steps != done  # the reason: a step of the longer run has another learning rate


def test_running_settings_may_change_and_the_others_may_not(tmp_path: Path) -> None:
    first = D2M(dataclasses.replace(FAST, steps=1)).fit(gan(), data(), tmp_path / "d")
    other = dataclasses.replace(FAST, steps=1, checkpoint_every=7, sample_every=9, device="auto")
    assert same(D2M(other).fit(gan(), data(), tmp_path / "d"), first)
    pretrain(gan(), data(), PRE, tmp_path / "p")
    pretrain(gan(), data(), dataclasses.replace(PRE, checkpoint_every=7, sample_every=9, device="auto"), tmp_path / "p")
    for changes in ({"lr": 0.1}, {"seed": 1}, {"ema": 0.5}, {"precision": "bfloat16"}):
        with pytest.raises(InputError, match=f"holds a run with .*{next(iter(changes))}"):
            D2M(dataclasses.replace(FAST, steps=1, **changes)).fit(gan(), data(), tmp_path / "d")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"holds a run with .*{next(iter(changes))}"):
            pretrain(gan(), data(), dataclasses.replace(PRE, **changes), tmp_path / "p")  # type: ignore[arg-type]


class Recorder:
    """A tracker that keeps what it receives."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, run: Any) -> None:
        self.told.append(("start", run.path.name))

    def log(self, step: int, values: Any) -> None:
        self.told.append((step, dict(values)))

    def finish(self, status: str) -> None:
        self.told.append(("finish", status))


def test_trackers_are_told_what_the_run_folder_holds(tmp_path: Path) -> None:
    for name in ("p", "d"):
        recorder = Recorder()
        if name == "p":
            pretrain(gan(), data(), PRE, tmp_path / name, log=(recorder,))
        else:
            D2M(FAST).fit(gan(), data(), tmp_path / name, log=(recorder,))
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        expected = [(row.pop("step"), {key: row[key] for key in row if "loss" in key}) for row in rows]
        told = [(step, {key: values[key] for key in values if "loss" in key}) for step, values in recorder.told[1:-1]]
        assert told == expected and len(told) >= 2
        assert recorder.told[0] == ("start", name) and recorder.told[-1] == ("finish", "finished")
    with pytest.raises(InputError, match="log without a run folder"):
        pretrain(gan(), data(), PRE, log=("tensorboard",))


@pytest.mark.parametrize("job", ["pretrain", "distill"])
def test_a_kill_right_after_a_checkpoint_costs_no_picture(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def run() -> None:
        if job == "pretrain":
            pretrain(gan(), data(), PRE, tmp_path)
        else:
            D2M(FAST).fit(gan(), data(), tmp_path)

    def saving_the_last(folder: Path, step: int, *rest: object) -> None:
        save(folder, step, *rest)  # type: ignore[arg-type]
        if step == last:
            raise Killed

    save, last = checkpoint.save_step, (PRE if job == "pretrain" else FAST).steps
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save_step", saving_the_last)
        run()
    run()
    wanted = {"pretrain": ["000002", "000004"], "distill": ["000003", "000006"]}[job]
    assert sorted(path.stem for path in tmp_path.glob("samples-*.png")) == [f"samples-{step}" for step in wanted]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_distill import D2M, FAST, data, dataclasses, gan
        from pathlib import Path
        D2M(dataclasses.replace(FAST, steps=60)).fit(gan(), data(), Path({str(tmp_path / "run")!r}))
        """
    )
    job = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    config = dataclasses.replace(FAST, steps=60)
    assert same(D2M(config).fit(gan(), data(), tmp_path / "run"), D2M(config).fit(gan(), data()))


def test_parts_of_a_step_and_parts_of_the_classes_add_up() -> None:
    plain = D2M(dataclasses.replace(FAST, steps=2)).fit(gan(), data())
    parts = D2M(dataclasses.replace(FAST, steps=2, accumulate=3)).fit(gan(), data())
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    some = D2M(dataclasses.replace(FAST, classes=2)).fit(gan(), data())
    assert not same(some, gan())


@pytest.mark.parametrize("which", ["last", "classes"])
def test_only_the_chosen_parameters_learn(which: str) -> None:
    made = D2M(dataclasses.replace(FAST, parameters=which)).fit(gan(), data())  # type: ignore[arg-type]
    before, mine = gan().state_dict(), gan().groups()[which]
    for name, tensor in made.state_dict().items():
        if name in dict(gan().named_parameters()) and mine(name):
            assert not torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor, before[name]), name
    assert all(p.requires_grad for p in made.parameters())


def test_adapters_alone_learn_and_the_base_is_bit_equal(tmp_path: Path) -> None:
    pytest.importorskip("peft")

    def base() -> DiffusionGenerator:
        return DiffusionGenerator.denoising(3, (1, 8, 8), width=8, steps=2, grad_steps=1)

    made = D2M(dataclasses.replace(FAST, steps=3, parameters="lora")).fit(base().add_lora(2), data(), tmp_path)
    assert isinstance(made, DiffusionGenerator)
    before = base().model.state_dict()
    after = {n.replace(".base_layer", ""): t for n, t in made.model.state_dict().items() if "lora_" not in n}
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
    adapters = [t for n, t in made.model.state_dict().items() if "lora_B" in n]
    assert all(bool((t != 0).any()) for t in adapters)
    whole = sum(t.numel() * 4 for t in before.values())
    assert (tmp_path / "lora" / "adapter_model.safetensors").stat().st_size < 0.5 * whole
    again = base().load_lora(tmp_path / "lora")
    labels = torch.arange(3)
    torch.testing.assert_close(again.sample(labels, seed=0), made.sample(labels, seed=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="no parameter of the DiffusionGenerator is in the group 'lora'"):
        D2M(dataclasses.replace(FAST, parameters="lora")).fit(base(), data())


def test_the_pool_is_a_function_of_the_step() -> None:
    source = data()

    def pool() -> Pool:
        return Pool(POOL, source, Preprocessing.fit(source), SiameseAugmentation(()), 3, torch.device("cpu"))

    one, other = pool(), pool()
    assert [list(one.numbers(step)) for step in (0, 2, 3, 7)] == [[0, 1], [0, 1], [1, 2], [2, 3]]
    for step in (0, 1, 4, 8):
        assert same(one.draw(step), other.draw(step))
    assert same(pool().draw(8), one.draw(8))  # whatever was drawn before
    assert not any(p.requires_grad for p in one.draw(0).parameters())
    trained = [one.epochs(number) for number in range(200)]
    assert 0.35 < np.mean([epochs == 0 for epochs in trained]) < 0.65 and set(trained) == {0, 1, 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"lr": 0.0}, "lr must be a number > 0, got 0"),
        ({"ema": 1.0}, r"ema must be a number in \[0, 1\), got 1"),
        ({"classes": 4}, "classes must be at most 3, as in the data, got 4"),
        ({"classes": 0}, "classes must be a whole number >= 1, got 0"),
        ({"clip": 0.0}, "clip must be a number > 0, got 0"),
        ({"precision": "half"}, "precision must be float32 or bfloat16, got 'half'"),
        ({"parameters": "some"}, "parameters 'some' of a ConditionalGAN"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"loss": MatchingLoss(reduction="sample")}, "3 generated and 8 real images per class"),
        ({"lr": 1e30, "clip": 1e30, "steps": 40}, "the loss is .* seed 0"),
    ],
)
def test_settings_outside_what_is_accepted(words: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        D2M(dataclasses.replace(FAST, **words)).fit(gan(), data(), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "generator").exists()


def test_generators_of_other_images_are_refused() -> None:
    wrong = ConditionalGAN(4, (1, 8, 8), width=4)
    for job in (lambda: D2M(FAST).fit(wrong, data()), lambda: pretrain(wrong, data(), PRE)):
        with pytest.raises(InputError, match="4 classes"):
            job()
    with pytest.raises(InputError, match="ZCA"):
        D2M(FAST, preprocessing=Preprocessing.fit(data(), "zca")).fit(gan(), data())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"networks": 0}, "networks must be a whole number >= 1, got 0"),
        ({"untrained": 1.5}, r"untrained must be a number in \[0, 1\], got 1\.5"),
        ({"refresh_every": -1}, "refresh_every must be a whole number >= 0, got -1"),
    ],
)
def test_pools_outside_what_is_accepted(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PoolConfig(**words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"discriminator_lr": 0.0}, "discriminator_lr must be a number > 0, got 0"),
        ({"label_dropout": 1.0}, r"label_dropout must be a number in \[0, 1\), got 1"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"lr": 1e30, "discriminator_lr": 1e30, "steps": 20}, "is (nan|inf|-inf) at step"),
    ],
)
def test_pretraining_outside_what_is_accepted(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pretrain(gan(), data(), dataclasses.replace(PRE, **words))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_gan_learns_its_classes() -> None:
    config = dataclasses.replace(PRE, steps=150, batch_size=32, lr=2e-3, discriminator_lr=2e-3, augment=False)
    made = pretrain(gan(), data(), config)
    columns = made.sample(torch.arange(3).repeat(10), seed=0).detach()[:, 0].mean(dim=1)
    bands = torch.stack([columns[:, 3 * k : 3 * k + 2].mean(dim=1) for k in range(3)], dim=1)
    assert float((bands.argmax(dim=1) == torch.arange(3).repeat(10)).double().mean()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["consistency", "denoising"])
def test_a_diffusion_model_learns_its_classes(kind: str) -> None:
    make = getattr(DiffusionGenerator, kind)
    made = pretrain(make(3, (1, 8, 8), width=16), data(), dataclasses.replace(PRE, steps=200, batch_size=32, lr=2e-3))
    columns = made.sample(torch.arange(3).repeat(10), seed=0).detach()[:, 0].mean(dim=1)
    bands = torch.stack([columns[:, 3 * k : 3 * k + 2].mean(dim=1) for k in range(3)], dim=1)
    assert float((bands.argmax(dim=1) == torch.arange(3).repeat(10)).double().mean()) > 0.8
