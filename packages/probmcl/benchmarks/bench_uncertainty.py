"""Which uncertainty ranks errors and finds foreign images, and what sets of labels contain, on scenes of digits.

    OMP_NUM_THREADS=1 python benchmarks/bench_uncertainty.py       # about 15 minutes on one core

1000 scenes of the digits 0 to 7 for training, 500 for validation (calibration of probabilities and of the sets), 1000
for testing; all scenes with an 8 or a 9 are left out, and scenes of 8 and 9 alone are foreign images. The encoder is a
convnet of width 8, every method trains for 24 epochs. Every kind of uncertainty is measured on the same models; means
over seeds (of scenes, weights and batches) with their standard errors.

Every result is kept in results/uncertainty/, so that a stopped benchmark resumes.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import tyro
from means import mean_and_error
from probmcl import (
    Config,
    ConformalSets,
    Coverage,
    MultiLabelSet,
    ProbMCL,
    Split,
    error_by_quantile,
    error_ranking,
    probability_uncertainty,
)
from probmcl.reliability import kinds
from probmcl.reliability.conformal import Guarantee
from probmcl.scenes import compose, digits
from sextet_common import files
from sextet_common.benchmarks import into_readme, machine, store

HERE = Path(__file__).resolve().parent

SIZES, COMPOSED, KNOWN, SEEDS = (1000, 500, 1000), (2200, 1100, 2200), 8, (0, 1, 2)
LEVEL, HALVES = 0.9, 50
WIDTH, EPOCHS = 8, {"epochs": 18, "classifier_epochs": 6}
# The defaults, and the likelihood, without which nothing trains the mixtures' weights.
MIXTURE = {"method": "probmcl", "likelihood_weight": 0.1}
METHODS: dict[str, dict[str, Any]] = {
    "asymmetric loss": {"method": "asymmetric"},
    "ProbMCL, joint": {**MIXTURE, "mode": "joint"},
    "ProbMCL, two-stage": {**MIXTURE, "mode": "two_stage", "classifier_loss": "bce"},
}
FOREIGN = ("noise", "contrast", "digits")


def scenes(seed: int) -> tuple[MultiLabelSet, dict[str, np.ndarray]]:
    """Compose scenes of the known digits, and foreign ones: noisy, of low contrast, of other digits."""
    whole = compose(digits(), sizes=COMPOSED, seed=seed)
    parts = [_only(part, slice(KNOWN)) for part in (whole.train, whole.validation, whole.test)]
    chosen = [tuple(array[:size] for array in part) for part, size in zip(parts, SIZES, strict=True)]
    assert all(len(part[0]) == size for part, size in zip(chosen, SIZES, strict=True))
    images = chosen[2][0]
    noise = np.random.default_rng(seed).standard_normal(images.shape, dtype=np.float32)
    others = compose(digits(), sizes=(2, 2, 6000), seed=seed).test
    foreign = {
        "noise": (images + 0.3 * noise).clip(0, 1),
        "contrast": 0.4 * images,
        "digits": _only(others, slice(KNOWN, None))[0],
    }
    return MultiLabelSet.of(*chosen, tuple("01234567"), source="scenes of 0 to 7"), foreign


def _only(part: Split, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return the scenes that show digits of these columns alone, with the labels of the known ones."""
    labels = np.array(part.labels)
    rows = labels[:, columns].sum(axis=1) == labels.sum(axis=1)
    return part.batch(np.flatnonzero(rows)).numpy(), labels[rows, :KNOWN]


def run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train and measure once, or return the stored result."""
    path = folder / f"{name.replace(' ', '_').replace(',', '')}-{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    torch.set_num_threads(1)
    data, foreign = scenes(seed)
    options = {"seed": seed, "device": "cpu", **EPOCHS, **METHODS[name]}
    model = ProbMCL("convnet", KNOWN, Config.flat(**options), width=WIDTH).fit(data)
    scores = model.evaluate(data.test)
    result: dict[str, Any] = {
        "name": name, "options": options, "seed": seed, "map": scores.mean_ap, "exact_match": scores.exact_match,
        "kinds": {kind: _ranked(model, data.test, foreign, kind) for kind in _kinds(model)},
        "sets": {guarantee: _covered(model, data, guarantee) for guarantee in get_args(Guarantee)},
        "labels": float(np.array(data.test.labels).sum(axis=1).mean()),
    }  # fmt: skip
    files.write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"{name}, seed {seed}: mAP {100 * scores.mean_ap:.2f}", flush=True)
    return result


def _kinds(model: ProbMCL) -> list[kinds.Kind]:
    return [kind for kind in get_args(kinds.Kind) if model.config.has_mixtures or not kinds.needs_mixtures(kind)]


def _ranked(model: ProbMCL, test: Split, foreign: dict[str, np.ndarray], kind: kinds.Kind) -> dict[str, Any]:
    """Measure one kind: errors of images, errors of single labels, foreign images."""
    probabilities = model.predict_proba(test)
    wrong = (probabilities.numpy() > 0.5) != np.array(test.labels, dtype=bool)
    values = model.uncertainty(test, kind).numpy()
    each = np.broadcast_to(values[:, None], wrong.shape)  # an image's, unless a label has its own
    if kinds.needs_probabilities(kind):
        each = probability_uncertainty(probabilities, kind, per_label=True).numpy()
    ranking = error_ranking(values, wrong.any(axis=1))
    found: dict[str, Any] = {
        **vars(ranking),
        "label_auroc": error_ranking(each.ravel(), wrong.ravel()).auroc,
        "fifths": error_by_quantile(values, wrong.any(axis=1)).tolist(),
    }
    for name, images in foreign.items():
        theirs = model.uncertainty(images, kind).numpy()
        is_foreign = np.repeat([0, 1], [len(values), len(theirs)])
        found[name] = error_ranking(np.concatenate([values, theirs]), is_foreign).auroc
    return found


def _covered(model: ProbMCL, data: MultiLabelSet, guarantee: Guarantee) -> dict[str, float]:
    """Measure sets on the test part, calibrated on the validation part, and on halves of the test part."""
    probabilities, labels = model.predict_proba(data.test).numpy(), np.array(data.test.labels)
    measured = model.conformal(data.validation, LEVEL, guarantee).measure(probabilities, labels)
    result = {"coverage": _share(measured, guarantee), "size": measured.mean_size}
    halves = []
    for draw in range(HALVES):
        order = np.random.default_rng(draw).permutation(len(labels))
        one, other = np.array_split(order, 2)
        sets = ConformalSets.fit(probabilities[one], labels[one], LEVEL, guarantee)
        halves.append(_share(sets.measure(probabilities[other], labels[other]), guarantee))
    return {**result, "halves": float(np.mean(halves))}


def _share(measured: Coverage, guarantee: Guarantee) -> float:
    """Return the covered share, for "label" the mean over the labels."""
    return float(np.mean(measured.per_label)) if guarantee == "label" else measured.of(guarantee)


def main(workers: int = 1) -> None:
    """Run the benchmark and put its tables into the README.

    Parameters
    ----------
    workers
        Number of processes, with one thread each.
    """
    folder = HERE / "results" / "uncertainty"
    jobs = [(name, seed, folder) for seed in SEEDS for name in METHODS]
    with ProcessPoolExecutor(workers) as pool:
        results = [future.result() for future in [pool.submit(run, *job) for job in jobs]]
    store(HERE, "uncertainty", {"results": results})
    into_readme(HERE.parent / "README.md", "bench_uncertainty", tables(results))


def tables(results: list[dict[str, Any]]) -> str:
    """Return the tables of uncertainties and of sets."""
    lines = [
        "| method | uncertainty | wrong image, AUROC | wrong label, AUROC | AURC | noise, AUROC | contrast, AUROC "
        "| other digits, AUROC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        each = [x for x in results if x["name"] == name]
        for kind in each[0]["kinds"]:
            keys = ("auroc", "label_auroc", "aurc", *FOREIGN)
            cells = [mean_and_error([x["kinds"][kind][key] for x in each]) for key in keys]
            lines.append(f"| {name} | {kind} | {' | '.join(cells)} |")
        first = [x["kinds"]["entropy"] for x in each]
        random, best = (mean_and_error([x[key] for x in first]) for key in ("error", "best_aurc"))
        lines.append(f"| {name} | random order; best order | 50 | 50 | {random}; {best} | 50 | 50 | 50 |")
    lines += [
        "",
        f"| method | guarantee of {100 * LEVEL:g} % | coverage, calibrated on test scenes "
        "| coverage, on validation scenes | labels in a set | labels of a scene | mAP |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        each = [x for x in results if x["name"] == name]
        for guarantee in get_args(Guarantee):
            halves, coverage = (
                mean_and_error([x["sets"][guarantee][key] for x in each]) for key in ("halves", "coverage")
            )
            size, labels = (
                np.mean(v) for v in ([x["sets"][guarantee]["size"] for x in each], [x["labels"] for x in each])
            )
            score = mean_and_error([x["map"] for x in each])
            lines.append(f"| {name} | {guarantee} | {halves} | {coverage} | {size:.2f} | {labels:.2f} | {score} |")
    return "\n".join(lines) + f"\n\n`python benchmarks/bench_uncertainty.py` on {machine()}."


if __name__ == "__main__":
    tyro.cli(main)
