"""Small seeded jobs of probmcl, for ``tools/numbers.py``."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probmcl import (
    AsymmetricLoss,
    Augmentation,
    Config,
    MemoryQueue,
    MixtureDensityHead,
    MixtureNLL,
    MixtureParameters,
    MultiLabelSet,
    MultiLabelSupConLoss,
    ProbabilisticContrastiveLoss,
    ProbMCL,
    ProbMCLLoss,
    best_threshold,
    build,
    error_by_quantile,
    evaluate,
    label_overlap,
    load,
    mixture_similarity,
    positive_rate,
    positives,
    uncertainty,
)
from probmcl.__main__ import main
from probmcl.scenes import compose, digits
from sextet_common import checkpoint

LABELS = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]])


def _config(**options: Any) -> Config:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # settings by their flat names
        return Config(**options)


def _mixtures(seed: int, batch: int, components: int, dims: int, covariance: str = "isotropic") -> MixtureParameters:
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, components) if covariance == "isotropic" else (batch, components, dims)
    return MixtureParameters(
        torch.randn(batch, components, generator=draw).log_softmax(dim=1),
        torch.randn(batch, components, dims, generator=draw),
        0.4 * torch.randn(shape, generator=draw),
    )


def _with_gradients(function: Callable[[MixtureParameters], torch.Tensor], mixtures: MixtureParameters) -> list[Any]:
    leaves = [tensor.requires_grad_() for tensor in mixtures]
    value = function(MixtureParameters(*leaves))
    return [value, *torch.autograd.grad(value.sum(), leaves)]


def _run_folder(folder: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = sorted((folder / "checkpoints").glob("*.safetensors"))
    last = checkpoint.load(steps[-1], "torch")
    return {
        "metrics": [{name: value for name, value in row.items() if name != "seconds"} for row in rows],
        "checkpoints": [path.name for path in steps],
        "last": {name: tensor for name, tensor in last.arrays.items() if name.startswith("model.")},
    }


def _images(method: str, **options: Any) -> dict[str, Any]:
    data = compose(digits(), sizes=(80, 40, 40))
    settings = {"epochs": 2, "classifier_epochs": 2, "batch_size": 16, "dim": 8, "hidden": (16,), "device": "cpu"}
    config = _config(method=method, checkpoint_every=7, **{**settings, **options})
    with tempfile.TemporaryDirectory() as folder:
        model = ProbMCL("convnet", 10, config, width=2).fit(data, folder)
        result = {**_run_folder(Path(folder)), "probabilities": model.predict_proba(data.test)}
        again = ProbMCL.load(folder, on="cpu")
    result |= {"loaded": again.predict_proba(data.test), "features": again.embed(data.test)}
    result["scores"] = again.evaluate(data.test).as_dict()
    if method == "probmcl" and not options.get("fine_tune"):
        result |= {"uncertainty": again.variances(data.test), "mixtures": tuple(again.mixtures(data.test))}
    return result


def _features(method: str) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    y = (draw.random((120, 5)) < 0.3).astype(np.uint8)
    x = y @ draw.normal(size=(5, 12)) + draw.normal(size=(120, 12))
    data = MultiLabelSet.of((x, y), None, (x, y))
    config = _config(
        method=method, epochs=4, classifier_epochs=4, batch_size=20, dim=8, hidden=(16,), label_aware="any",
        likelihood_weight=1.0,
        similarity="aligned", covariance="diagonal", positive_weight="overlap", device="cpu",
    )  # fmt: skip
    model = ProbMCL("mlp", 5, config, width=16).fit(data)
    return {"probabilities": model.predict_proba(data.test), "logits": model.inference()(data.test.batch(range(8)))}


def _commands() -> dict[str, Any]:
    words = ["--epochs", "1", "--classifier-epochs", "1", "--dim", "8", "--hidden", "16", "--width", "2"]
    words += [
        "--data",
        "digits",
        "--batch-size",
        "500",
        "--label-aware",
        "each",
        "--likelihood-weight",
        "1",
        "--temperature",
        "0.2",
        "--lr",
        "0.01",
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        assert main(["train", "--out", str(out), "--device", "cpu", *words]) == 0
        return {**_run_folder(out), "test": json.loads((out / "test.json").read_text())}


def _overlaps() -> list[Any]:
    measures = ("jaccard", "dice", "cosine", "overlap", "containment")
    return [
        [
            label_overlap(LABELS, measure=m, both_empty=0.25),
            positives(LABELS, 2 / 3, measure=m),
            positive_rate(LABELS, 0.4, m),
        ]
        for m in measures
    ]


def _similarities() -> list[Any]:
    results = []
    for covariance in ("isotropic", "diagonal"):
        other = _mixtures(1, 3, 4, 3, covariance)
        for kind in ("log_cosine", "cosine", "angular", "aligned"):
            for reference in (None, other):
                results.append(
                    _with_gradients(
                        lambda f, kind=kind, reference=reference: mixture_similarity(f, reference, kind)[:, 1:],
                        _mixtures(0, 5, 4, 3, covariance),
                    )
                )
    return results


def _losses() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(3)
    points, logits = torch.randn(6, 3, generator=draw), torch.randn(6, 4, generator=draw)
    results: dict[str, Any] = {}
    for covariance in ("isotropic", "diagonal"):
        for name, loss in {
            "contrastive": ProbabilisticContrastiveLoss(0.3, 0.4, "dice", per_dimension=True, weight="overlap"),
            "angular": ProbabilisticContrastiveLoss(similarity="angular", reduction="none"),
        }.items():
            results[f"{name} {covariance}"] = _with_gradients(
                lambda f, loss=loss: loss(f, LABELS), _mixtures(2, 6, 4, 3, covariance)
            )
        for aware in ("none", "any", "each"):
            nll = MixtureNLL("none", per_dimension=aware != "none", label_aware=aware)
            results[f"likelihood {aware} {covariance}"] = _with_gradients(
                lambda f, nll=nll: nll(f, points, LABELS), _mixtures(2, 6, 4, 3, covariance)
            )
        results[f"whole {covariance}"] = list(
            ProbMCLLoss(weight=0.7).parts(_mixtures(2, 6, 4, 3, covariance), points, LABELS)
        )
    results["supcon"] = MultiLabelSupConLoss(threshold=0.3)(points, LABELS)
    for reduction in ("mean", "batchmean", "sum", "none"):
        results[f"asymmetric {reduction}"] = AsymmetricLoss(0.5, 3.0, 0.1, reduction)(logits, LABELS)
    return results


def _queue() -> list[Any]:
    queue, loss = MemoryQueue(5, 3, 4), MultiLabelSupConLoss()
    values = []
    for step in range(3):
        rows = torch.randn(3, 3, generator=torch.Generator().manual_seed(step))
        queue.add(rows, LABELS[:3])
        values.append(loss(rows, LABELS[:3], queue.embeddings, queue.labels, present=queue.present))
    return [*values, dict(queue.state_dict())]


def _heads() -> list[Any]:
    results: list[Any] = []
    for covariance in ("isotropic", "diagonal"):
        for positive in ("elu", "softplus", "exp"):
            torch.manual_seed(0)
            head = MixtureDensityHead(6, 3, 4, covariance, hidden=(8,), positive=positive)
            mixtures = head(torch.randn(5, 6))
            results.append([tuple(mixtures), uncertainty(mixtures), mixtures.log_prob(torch.zeros(5, 4))])
    return results


def _metrics() -> list[Any]:
    draw = np.random.default_rng(0)
    labels = (draw.random((60, 5)) < 0.3).astype(int)
    labels[:, 4] = 0
    chances = np.clip(0.25 + 0.35 * labels + 0.2 * draw.normal(size=labels.shape), 0, 1)
    results = [
        evaluate(chances, labels, threshold=0.4, absent=absent, k=2, top_k_rule=rule).as_dict()
        for absent in ("ignore", "zero")
        for rule in ("only", "and_threshold")
    ]
    quantiles = error_by_quantile(draw.random(40), draw.random(40))
    return [*results, best_threshold(chances, labels, "cf1"), best_threshold(chances, labels), quantiles]


def _views() -> list[Any]:
    draw = torch.Generator().manual_seed(0)
    images, features = torch.rand(4, 1, 8, 8, generator=draw), torch.randn(4, 6, generator=draw)
    strong = Augmentation(0.2, 0.2, 0.5, 0.2, 0.1, 0.3, True, 0.4)
    return [augment.views(x, draw) for augment in (Augmentation(), strong) for x in (images, features)]


def _data() -> list[Any]:
    scenes = load("digits", seed=3)
    torch.manual_seed(0)
    encoder = build("convnet", (1, 32, 32), width=2)
    parts = [[part.labels, part.batch([0, 1, 5])] for part in (scenes.train, scenes.validation, scenes.test)]
    return [*parts, encoder(scenes.test.batch([0, 1]))]


def jobs() -> dict[str, Callable[[], Any]]:
    """Return the jobs by name."""
    return {
        **{f"train {method}": partial(_images, method) for method in ("probmcl", "supcon", "asymmetric", "bce")},
        "train label-aware": partial(
            _images, "probmcl", label_aware="each", likelihood_weight=1.0, contrastive_weight=0.5, min_std=0.2
        ),
        "train fine-tuned": partial(_images, "probmcl", fine_tune=True, calibrate=False, classifier_loss="bce"),
        "train supcon fine-tuned": partial(_images, "supcon", fine_tune=True, supcon_temperature=0.3, margin=0.1),
        "train bfloat16": partial(_images, "probmcl", precision="bfloat16", weight_decay=0.01, seed=3),
        **{f"features {method}": partial(_features, method) for method in ("probmcl", "supcon", "bce")},
        "command line": _commands,
        "overlaps": _overlaps,
        "similarities": _similarities,
        "losses": _losses,
        "queue": _queue,
        "heads": _heads,
        "metrics": _metrics,
        "views": _views,
        "data": _data,
    }
