"""Small seeded jobs of attention-matching, through its public names alone."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attention_matching as am
import torch
from sextet_common.data import ImageSet, load

QUICK = am.EvaluateConfig(networks=2, epochs=6, width=8, seed=3)
TIMINGS = ("seconds", "seconds_of_making", "speedup", "machine")


def jobs() -> dict[str, Callable[[], Any]]:
    """Return the jobs by name."""
    return {
        "distill paper": lambda: _distill(am.DistillConfig(ipc=2, steps=14, width=8, checkpoint_every=5)),
        "distill official": lambda: _distill(am.DistillConfig(ipc=2, steps=12, width=8, preset="official")),
        "distill atom": lambda: _distill(am.DistillConfig(method="atom", steps=12, width=8, initial="noise")),
        "distill dm": lambda: _distill(am.DistillConfig(method="dm", steps=12, width=8, initial="k-centre")),
        "distill resnet18": lambda: _distill(am.DistillConfig(architecture="resnet18", steps=1, real_batch=4)),
        "distill free and valid": lambda: [
            one.images
            for one in am.Distiller.fit_many(
                [am.DistillConfig(steps=6, width=8, pixels=pixels) for pixels in ("free", "valid")], load("digits")
            )
        ],
        "distill in parts": lambda: _distill(
            am.DistillConfig(steps=5, width=8, images_at_once=64, whitening="zca", initial="herding")
        ),
        "losses": _losses,
        "evaluate": lambda: _evaluate(QUICK),
        "evaluate batches": lambda: _evaluate(dataclasses.replace(QUICK, networks=3, batch=8)),
        "evaluate batch norm": lambda: _evaluate(dataclasses.replace(QUICK, norm="batch")),
        "evaluate held-out": lambda: _evaluate(dataclasses.replace(QUICK, choose="held-out", epochs=25)),
        "evaluate random real": lambda: am.evaluate_random_real(load("digits"), 2, QUICK).accuracies,
        "evaluate whole": lambda: am.evaluate_whole(_few(), dataclasses.replace(QUICK, epochs=2)).accuracies,
        "confidence interval": lambda: am.Evaluation((0.5, 0.6, 0.8)).confidence_interval(0.9),
        "train networks": _train_networks,
        "soft labels": _soft_labels,
        "robust scores": _robust_scores,
        "cross architecture": _cross,
        "coresets": _coresets,
        "small sets": _small_sets,
        "continual": _continual,
        "search": _search,
        "exports": _exports,
    }


def _few() -> ImageSet:
    digits = load("digits")
    return dataclasses.replace(digits, train_images=digits.train_images[:300], train_labels=digits.train_labels[:300])


def _untimed(value: Any) -> Any:
    """Return nested values without what a clock measured."""
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if key not in TIMINGS}
    return [_untimed(item) for item in value] if isinstance(value, list | tuple) else value


def _rows(out: Path) -> list[Any]:
    return [_untimed(json.loads(row)) for row in (out / "metrics.jsonl").read_text().splitlines()]


def _distill(config: am.DistillConfig) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        distilled = am.Distiller(config).fit(load("digits"), out)
        reread = am.DistilledSet.load(out / "distilled.safetensors")
        return distilled.images, distilled.labels, distilled.meta, _rows(out), reread.images


def _losses() -> Any:
    torch.manual_seed(0)
    images, synthetic = torch.rand(20, 1, 8, 8), torch.rand(10, 1, 8, 8, requires_grad=True)
    network = am.build("convnet", (1, 8, 8), 10, width=8)
    results = []
    for method, power in (("datadam", 4), ("atom", 1), ("dm", 4)):
        loss = am.make_loss(method, power)
        real = loss.statistics(network.features(images), 10)
        value = loss.compare(real, loss.statistics(network.features(synthetic), 10))
        results.append([list(real), value, torch.autograd.grad(value.sum(), synthetic)[0]])
    return results


def _evaluate(config: am.EvaluateConfig) -> Any:
    chosen = am.random_real(load("digits"), 2, seed=5)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        return am.evaluate(chosen, load("digits"), config, out).accuracies, _rows(out)


def _train_networks() -> Any:
    chosen = am.random_real(load("digits"), 1)
    augment = am.augmentation_for(chosen.classes)
    config = am.TrainConfig(epochs=5, seed=2)
    networks = am.train_networks(
        lambda number: am.ConvNet((1, 8, 8), 10, width=4), range(2), chosen.images, chosen.labels, augment, config
    )
    return [dict(network.state_dict()) for network in networks]


def _soft_labels() -> Any:
    data = _few()
    with tempfile.TemporaryDirectory() as folder:
        teacher = am.train_teacher(
            data, dataclasses.replace(QUICK, epochs=2), path=Path(folder) / "teacher.safetensors"
        )
        soft = am.soft_labels_from(am.random_real(data, 1), data, temperature=3.0, teacher=teacher)
    config = dataclasses.replace(QUICK, labels="soft")
    return soft.soft_labels, soft.meta, am.evaluate(soft, data, config).accuracies


def _robust_scores() -> Any:
    scores = am.robust_scores(am.random_real(_few(), 1), _few(), QUICK, whole_epochs=1)
    return scores.label_robust, scores.augmentation_robust, str(scores)


def _cross() -> Any:
    quick = dataclasses.replace(QUICK, networks=1, epochs=2)
    names = ["convnet", "alexnet", "vgg11", "vit"]
    table = am.cross_architecture(am.herding(_few(), 1), _few(), quick, names)
    return table.to_json(), table.to_markdown()


def _coresets() -> Any:
    data = _few()
    names = ("random", "k-centre", "herding")
    return [[am.select(name, data, 3, seed=1).images, am.select(name, data, 3, seed=1).meta] for name in names]


def _small_sets() -> Any:
    config = am.DistillConfig(steps=2, width=4)
    sets = am.small_sets(["random", "herding", "dm"], _few(), 1, 4, config)
    return {name: [each.images, _untimed(each.meta)] for name, each in sets.items()}


def _continual() -> Any:
    config = am.ContinualConfig(
        steps=3,
        buffers=("random", "datadam"),
        orders=2,
        width=4,
        distill=am.DistillConfig(steps=2, width=4),
        training=am.TrainConfig(epochs=3),
    )
    with tempfile.TemporaryDirectory() as folder:
        result = am.continual(_few(), config, folder)
        stored = _untimed(json.loads((Path(folder) / "continual.json").read_text()))
        return result.to_json(), result.to_markdown(), _rows(Path(folder)), stored


def _search() -> Any:
    config = am.SearchConfig(
        am.Grid((4,), (1, 2), ("batch",), ("relu",), ("avg", "max")),
        proxy=am.TrainConfig(epochs=4),
        whole=am.TrainConfig(epochs=1),
    )
    part = am.search_data(_few(), config)
    with tempfile.TemporaryDirectory() as folder:
        result = am.search(_few(), {"random": am.random_real(part, 1)}, config, folder)
        stored = _untimed(json.loads((Path(folder) / "search.json").read_text()))
        agreement, rows = result.correlation("random"), _rows(Path(folder))
        return _untimed(result.to_json()), agreement.spearman, agreement.kendall, result.regret("random"), rows, stored


def _exports() -> Any:
    distilled = am.random_real(load("digits"), 1)
    with tempfile.TemporaryDirectory() as folder:
        am.export_folder(distilled, Path(folder) / "images")
        files = {str(f.relative_to(folder)): f.read_bytes().hex() for f in sorted(Path(folder).rglob("*.png"))}
        am.export_pt(distilled, Path(folder) / "digits.pt")
        stored = torch.load(Path(folder) / "digits.pt", weights_only=True)["data"][0]
    tables = [line for line in am.data_card(distilled).splitlines() if line.startswith("|")]
    return files, list(stored), tables
