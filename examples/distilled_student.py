"""Train a student on ten distilled images: attention-matching or d2m-generator distills, subclass-kd trains.

A teacher learns the ten digits from all real images. A small student learns to distinguish even from odd digits from
ten distilled images and the teacher's outputs, without real images: from pixels by ATOM, or from latents of a GAN. Both
are read from folders for the Hugging Face Hub. For comparison: the same with random real images.

Run it: ``python examples/distilled_student.py --out distilled-student``
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import torch
import tyro
from attention_matching import ConvNet, DistillConfig, DistilledSet, Distiller, export_hub, random_real
from d2m_generator import (
    ConditionalGAN,
    LatentConfig,
    LatentDistiller,
    LatentSet,
    PretrainConfig,
    export_hub as export_latents,
    pretrain,
    synthesize,
)
from sextet_common import figures, files, seeding
from sextet_common.data import ImageSet, load
from subclass_kd import (
    CrossEntropy,
    Hierarchy,
    Part,
    SubclassKDLoss,
    SubclassSet,
    TrainConfig,
    build,
    distill,
    evaluate,
    train_teacher,
)


def few(chosen: DistilledSet, digits: ImageSet, hierarchy: Hierarchy, source: str) -> SubclassSet:
    """Use all images for training; ``SubclassSet.of`` would hold out some of the few images for validation."""
    test = Part(digits.test_images, digits.test_labels)
    train = Part(chosen.pixels(), chosen.labels.numpy())
    return SubclassSet(train, validation=train, test=test, hierarchy=hierarchy, input_shape=digits.image_shape,
                       source=source)  # fmt: skip


def main(
    out: Path,
    ipc: int = 1,
    steps: int = 300,
    pretraining: int = 600,
    epochs: int = 200,
    teacher_epochs: int = 12,
    width: int = 16,
    draws: int = 3,
    seed: int = 0,
) -> None:
    """Run the composition.

    Parameters
    ----------
    out
        Output folder: result.json, picture.png, the shared sets in hub, and a run folder for each job.
    ipc
        Training images of each digit for the students.
    steps
        Steps of each distillation.
    pretraining
        Steps of the GAN.
    epochs
        Epochs of a student.
    teacher_epochs
        Epochs of the teacher.
    width
        Channels of the students.
    draws
        Students of each kind; each student on real images gets another random choice.
    seed
        Seed of all random draws.
    """
    digits = load("digits")
    parity = Hierarchy(np.arange(10) % 2, digits.classes, ("even", "odd"))
    everything = SubclassSet.of(
        (digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels), parity
    )
    teacher = train_teacher(
        build("convnet-deep", digits.image_shape, 10, width=16, seed=seed),
        everything,
        TrainConfig(epochs=teacher_epochs, seed=seed),
        out / "teacher",
    )
    if not (out / "hub" / "pixels").exists():
        config = DistillConfig(ipc=ipc, method="atom", steps=steps, width=32, seed=seed)
        export_hub(Distiller(config).fit(digits, out / "atom"), out / "hub" / "pixels")
    if not (out / "hub" / "latents").exists():
        gan = ConditionalGAN(10, digits.image_shape, width=8, seed=seed)
        pretrain(gan, digits, PretrainConfig(steps=pretraining, seed=seed), out / "gan")
        latents = LatentDistiller(LatentConfig(ipc=ipc, steps=steps, seed=seed)).fit(gan, digits, out / "latents")
        export_latents(latents, out / "hub" / "latents", classes=digits.classes)
    shared = {
        "pixels": DistilledSet.from_pretrained(out / "hub" / "pixels"),
        "latents": synthesize(LatentSet.load(out / "hub" / "latents"), ipc, data=digits),
    }

    accuracies: dict[str, dict[str, list[float]]] = {}
    objectives = {"alone": CrossEntropy(parity), "with teacher": SubclassKDLoss(parity, temperature=2, alpha=0.5)}
    for source in ("random real", *shared):
        accuracies[source] = {supervision: [] for supervision in objectives}
        for draw in range(draws):
            chosen = shared.get(source) or random_real(digits, ipc, seed + draw)
            data = few(chosen, digits, parity, f"{source} images, draw {draw}")
            for supervision, objective in objectives.items():
                with seeding.torch_seed(seed, "student", draw):
                    student = ConvNet(digits.image_shape, 10, width=width, depth=2)  # as in the distillation
                distill(
                    teacher if objective.needs_teacher else None,
                    student,
                    data,
                    objective,
                    TrainConfig(epochs=epochs, seed=seed + draw),
                    out / f"student-{source}-{supervision}-{draw}".replace(" ", "-"),
                )
                accuracies[source][supervision].append(evaluate(student, data).accuracy)
    panels = {}
    for source, chosen in {"random real": random_real(digits, ipc, seed), **shared}.items():
        mean = 100 * statistics.mean(accuracies[source]["with teacher"])
        by_digit = chosen.pixels().reshape(10, ipc, *digits.image_shape).swapaxes(0, 1)
        panels[f"{source}: {mean:.1f} % of the test images right"] = by_digit.reshape(-1, *digits.image_shape)
    title = "Training images of a student for even or odd"
    figures.save_panels(panels, out / "picture.png", columns=10, title=title, column_names=digits.classes)
    with torch.no_grad():
        read = {name: teacher(torch.from_numpy(one.pixels())).argmax(dim=1) for name, one in shared.items()}
    result = {
        "teacher": evaluate(teacher, everything).accuracy,
        "teacher_reads": {name: float((read[name] == one.labels).double().mean()) for name, one in shared.items()},
        "students": accuracies,
        "images": 10 * ipc,
        "test_images": len(digits.test_labels),
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")
    for source, by_supervision in accuracies.items():
        means = ", ".join(f"{name} {100 * statistics.mean(values):.1f} %" for name, values in by_supervision.items())
        print(f"{source}: {means}")


if __name__ == "__main__":
    tyro.cli(main)
