"""The long jobs whose cost scaling.py models: their sizes, and the terms of their seconds and bytes.

``python tools/scaling_jobs.py NAME SIZE`` measures one size, given as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import workspace

Size = Mapping[str, int]
Terms = dict[str, Callable[[Size], float]]


def multiply_adds(side: int, width: int, channels: int = 3) -> float:
    """Return those of the papers' ConvNet for one image: 3x3 convolutions, the side halved after each, down to 4.

    >>> multiply_adds(8, 10, 1)
    5760.0
    """
    total = 0.0
    while side > 4:
        total += side**2 * 9 * channels * width
        side, channels = side // 2, width
    return total


def activations(side: int, width: int) -> float:
    """Return the numbers that the ConvNet's convolutions put out for one image."""
    return float(sum(width * (side >> block) ** 2 for block in range(16) if side >> block > 4))


def images(size: Size, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random colour images and their classes; a training set without test images would lose a fifth."""
    labels = np.arange(size["classes"]).repeat(per_class)
    shape = (len(labels), 3, size["side"], size["side"])
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), labels


def per_unit(job: Callable[[int], object], units: int) -> float:
    """Return the processor seconds of one unit of a job, without those before the first."""
    job(1)  # imports and caches
    times = []
    for number in (1, 1 + units):
        began = time.process_time()
        job(number)
        times.append(time.process_time() - began)
    return (times[1] - times[0]) / units


def distillation(size: Size) -> float:
    """Return the seconds of a step of DataDAM."""
    from attention_matching import DistillConfig, Distiller

    def job(steps: int) -> object:
        config = DistillConfig(ipc=size["ipc"], steps=steps, width=size["width"], whitening="none")
        return Distiller(config).fit((*images(size, 64), *images(size, 1)))

    return per_unit(job, 3)


def generator(size: Size) -> float:
    """Return the seconds of a step of D2M."""
    from d2m_generator import D2M, ConditionalGAN, D2MConfig, PoolConfig

    def job(steps: int) -> object:
        gan = ConditionalGAN(size["classes"], (3, size["side"], size["side"]), width=size["width"])
        pool = PoolConfig(networks=2, untrained=1.0, width=size["width"])
        config = D2MConfig(steps=steps, images=size["images"], pool=pool, steps_per_draw=1)
        return D2M(config).fit(gan, (*images(size, 64), *images(size, 1)))

    return per_unit(job, 3)


def labels(size: Size) -> float:
    """Return the seconds of an image in an epoch of ProbMCL."""
    from probmcl import Config, MultiLabelSet, ProbMCL

    count = 4 * size["batch"]
    pixels, _ = images({"classes": 1, "side": size["side"]}, count)
    carried = (np.random.default_rng(1).random((count, size["labels"])) < 3 / size["labels"]).astype(np.uint8)
    carried[np.arange(count), np.arange(count) % size["labels"]] = 1
    part = pixels, carried
    data = MultiLabelSet.of(part, (pixels[:8], carried[:8]), (pixels[:8], carried[:8]))

    def job(epochs: int) -> object:
        config = Config(epochs=epochs, classifier_epochs=1, batch_size=size["batch"], calibrate=False)
        return ProbMCL("convnet", config=config, width=size["width"]).fit(data)

    return per_unit(job, 2) / count


def student(size: Size) -> float:
    """Return the seconds of an image in an epoch of a student with a tiny teacher."""
    from subclass_kd import Hierarchy, SubclassKDLoss, SubclassSet, TrainConfig, build, distill

    hierarchy = Hierarchy(np.arange(10) % 2)
    train, test = images({"classes": 10, **size}, 40), images({"classes": 10, **size}, 1)
    data = SubclassSet.of(train, test, hierarchy)
    shape = (3, size["side"], size["side"])
    teacher = build("convnet", shape, 10, width=4)

    def job(epochs: int) -> object:
        network = build("convnet-deep", shape, 10, width=size["width"])
        return distill(teacher, network, data, SubclassKDLoss(hierarchy), TrainConfig(epochs=epochs))

    return per_unit(job, 2) / len(data.train)


def splats(size: Size) -> float:
    """Return the seconds of a reduction to a tenth by Runnalls."""
    from gmr_metric import reduce

    sys.path.insert(0, str(workspace.ROOT / "packages" / "gmr-metric" / "benchmarks"))
    from bench_scale import scene

    whole = scene(size["splats"])
    reduce(scene(200), 20, "runnalls")
    began = time.process_time()
    reduce(whole, len(whole) // 10, "runnalls")
    return time.process_time() - began


def learner(size: Size) -> float:
    """Return the seconds in which the learner of a generation sends bases and tasks, and receives results."""
    from esac.engines.process import ProcessEngine
    from esac.play.task import Evaluator, Job, Task

    job = Job("InvertedPendulum-v5", {"max_episode_steps": 1}, (size["width"],))
    shape = Evaluator(job).policy.shape
    bases = np.stack([shape.initial(np.random.default_rng(m)) for m in range(size["pairs"])])
    tasks = [Task(m, 0, m, sign, 0.01) for m in range(size["pairs"]) for sign in (1, -1)]
    with ProcessEngine(job, 2) as engine:

        def generation(count: int) -> None:
            for _ in range(count):
                engine.start(bases, tasks)
                engine.finish()

        return per_unit(generation, 5)


@dataclass(frozen=True)
class Model:
    """What is measured, at which sizes, and the terms of its seconds and bytes, whose factors are fitted, all >= 0."""

    package: str
    unit: str
    measure: Callable[[Size], float]
    fitted: tuple[Size, ...]
    unseen: Size
    seconds: Terms
    bytes: Terms


def sizes(names: str, *rows: tuple[int, ...]) -> tuple[Size, ...]:
    """Return one size per row of numbers."""
    return tuple(dict(zip(names.split(), row, strict=True)) for row in rows)


def matched(size: Size, synthetic: str) -> int:
    """Return the passes of images through the network in a step: real ones forward, the others forward and back."""
    return size["classes"] * (64 + 3 * size[synthetic])


MODELS = {
    "distillation": Model(
        "attention-matching", "step", distillation,
        sizes("classes ipc side width", (10, 1, 32, 32), (10, 10, 32, 32), (20, 1, 32, 64), (10, 1, 64, 32),
              (10, 5, 32, 128)),
        *sizes("classes ipc side width", (20, 10, 64, 64)),
        {"multiply-adds": lambda s: matched(s, "ipc") * multiply_adds(s["side"], s["width"]),
         "activations": lambda s: matched(s, "ipc") * activations(s["side"], s["width"]), "step": lambda s: 1.0},
        {"process": lambda s: 1.0, "pixels": lambda s: s["classes"] * (64 + s["ipc"]) * 3 * s["side"] ** 2,
         "activations": lambda s: s["ipc"] * s["classes"] * activations(s["side"], s["width"])},
    ),
    "generator": Model(
        "d2m-generator", "step", generator,
        sizes("classes images side width", (5, 2, 32, 16), (10, 2, 32, 16), (10, 8, 32, 16), (10, 2, 64, 16),
              (10, 2, 32, 48)),
        *sizes("classes images side width", (20, 4, 64, 32)),
        {"multiply-adds": lambda s: matched(s, "images") * multiply_adds(s["side"], s["width"]),
         "activations": lambda s: matched(s, "images") * activations(s["side"], s["width"]), "step": lambda s: 1.0},
        {"process": lambda s: 1.0, "pixels": lambda s: s["classes"] * (64 + s["images"]) * 3 * s["side"] ** 2,
         "activations": lambda s: s["images"] * s["classes"] * activations(s["side"], s["width"])},
    ),
    "labels": Model(
        "probmcl", "image and epoch", labels,
        sizes("batch labels side width", (32, 10, 32, 8), (64, 10, 32, 16), (64, 40, 32, 16), (128, 40, 32, 8),
              (64, 10, 64, 16)),
        *sizes("batch labels side width", (96, 80, 64, 24)),
        {"multiply-adds": lambda s: s["side"] ** 2 * s["width"] ** 2, "activations": lambda s: s["side"] ** 2
         * s["width"], "comparisons": lambda s: s["batch"] * s["labels"], "step": lambda s: 1 / s["batch"]},
        {"process": lambda s: 1.0, "activations": lambda s: s["batch"] * s["side"] ** 2 * s["width"],
         "comparisons": lambda s: s["batch"] ** 2 * s["labels"]},
    ),
    "student": Model(
        "subclass-kd", "image and epoch", student,
        sizes("side width", (32, 8), (32, 32), (64, 16), (64, 32)),
        *sizes("side width", (96, 24)),
        {"multiply-adds": lambda s: s["side"] ** 2 * s["width"] ** 2, "activations": lambda s: s["side"] ** 2
         * s["width"], "image": lambda s: 1.0},
        {"process": lambda s: 1.0, "activations": lambda s: s["side"] ** 2 * s["width"]},
    ),
    "splats": Model(
        "gmr-metric", "reduction to a tenth", splats,
        sizes("splats", (3000,), (10_000,), (30_000,), (100_000,)),
        *sizes("splats", (300_000,)),
        {"once": lambda s: 1.0, "splats": lambda s: s["splats"], "search": lambda s: s["splats"] * np.log(s["splats"])},
        {"process": lambda s: 1.0, "splats": lambda s: s["splats"]},
    ),
    "learner": Model(
        "esac", "generation", learner,
        sizes("pairs width", (10, 16), (40, 16), (40, 256), (160, 64)),
        *sizes("pairs width", (320, 128)),
        {"tasks": lambda s: 2 * s["pairs"], "parameters": lambda s: s["pairs"] * s["width"]},
        {"process": lambda s: 1.0, "parameters": lambda s: s["pairs"] * s["width"]},
    ),
}  # fmt: skip


if __name__ == "__main__":
    size = json.loads(sys.argv[2])
    seconds = MODELS[sys.argv[1]].measure(size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"size": size, "seconds": seconds, "bytes": peak}))
