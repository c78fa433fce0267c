"""ProbMCL on scenes of real digits: rivals and settings, at one budget.

    OMP_NUM_THREADS=1 python benchmarks/bench_scenes.py            # about 45 minutes on two cores
    OMP_NUM_THREADS=1 python benchmarks/bench_scenes.py --part settings

1000 scenes for training, 500 for validation (used by the calibration only), 1000 for testing; the parts use different
digit images. Every method has the same encoder, two views of every scene in every epoch and the same number of
epochs, 40: with a frozen encoder 30 of them contrastive, with one that is fine-tuned 20. Scores at the threshold 0.5
after calibration, means over seeds (of scenes, weights and batches) with their standard errors; the settings have one
seed.

Every result is kept in results/scenes/, so that a stopped benchmark resumes.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from measure import mean_and_error
from probmcl import Config, ProbMCL, complexity, error_by_quantile
from probmcl.scenes import compose, digits
from sextet_common import files
from sextet_common.benchmarks import into_readme, machine, store

HERE = Path(__file__).resolve().parent

SIZES, EPOCHS, WIDTH, SEEDS = (1000, 500, 1000), 40, 16, (0, 1, 2)
FROZEN = {"epochs": 30, "classifier_epochs": EPOCHS - 30}
TUNED = {"epochs": 20, "classifier_epochs": EPOCHS - 20, "fine_tune": True}
AWARE = {"method": "probmcl", "label_aware": "each"}
METHODS: dict[str, dict[str, Any]] = {
    "binary cross-entropy": {"method": "bce", **FROZEN},
    "asymmetric loss": {"method": "asymmetric", **FROZEN},
    "supervised contrastive, frozen": {"method": "supcon", **FROZEN},
    "supervised contrastive, fine-tuned": {"method": "supcon", **TUNED},
    "ProbMCL, frozen": {"method": "probmcl", **FROZEN},
    "ProbMCL, label-aware, frozen": {**AWARE, **FROZEN},
    "ProbMCL, label-aware, fine-tuned": {**AWARE, **TUNED},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "label-aware, frozen, as above": {},
    **{f"threshold {value}": {"threshold": value} for value in (0.3, 0.75, 1.0)},
    **{f"measure {value}": {"measure": value} for value in ("cosine", "overlap")},
    "positives weighted by overlap": {"positive_weight": "overlap"},
    **{f"temperature {value}": {"temperature": value} for value in (0.005, 0.2)},
    **{f"lambda {value}": {"contrastive_weight": value} for value in (0.0, 3.0)},
    "not label-aware, lambda 3": {"label_aware": "none", "contrastive_weight": 3.0},
    "similarity aligned": {"similarity": "aligned"},
    "diagonal covariance": {"covariance": "diagonal"},
}


def run(name: str, options: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and measure once, or return the stored result."""
    path = folder / f"{name.replace(' ', '_').replace(',', '')}-{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    torch.set_num_threads(1)
    data = compose(digits(), sizes=SIZES, seed=seed)
    model = ProbMCL("convnet", 10, Config.flat(**{"seed": seed, "device": "cpu", **options}), width=WIDTH).fit(data)
    scores = model.evaluate(data.test)
    parameters, operations = complexity(model.inference(), data.input_shape)
    result: dict[str, Any] = {
        "name": name, "options": options, "seed": seed, "map": scores.mean_ap, "cf1": scores.cf1, "of1": scores.of1,
        "macro_f1": scores.macro_f1, "calibration_error": scores.calibration_error,
        "parameters": parameters, "multiply_adds": operations,
    }  # fmt: skip
    if options["method"] == "probmcl" and not options.get("fine_tune"):
        wrong = (model.predict_proba(data.test).numpy() > 0.5) != np.array(data.test.labels, dtype=bool)
        parts = model.uncertainty(data.test)
        for part, values in (("between", parts.between), ("within", parts.within), ("total", parts.total)):
            result[part] = error_by_quantile(values.numpy(), wrong.any(axis=1)).tolist()
    files.write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"{name}, seed {seed}: mAP {100 * scores.mean_ap:.2f}", flush=True)
    return result


def main(part: Literal["all", "methods", "settings"] = "all", workers: int = 2) -> None:
    """Run the benchmark and put its tables into the README.

    Parameters
    ----------
    part
        Which half; the README is written after both.
    workers
        Number of processes, with one thread each.
    """
    folder = HERE / "results" / "scenes"
    jobs = []
    if part != "settings":
        jobs += [(name, options, seed, folder) for seed in SEEDS for name, options in METHODS.items()]
    if part != "methods":
        jobs += [(name, {**AWARE, **FROZEN, **options}, 0, folder) for name, options in SETTINGS.items()]
    with ProcessPoolExecutor(workers) as pool:
        results = [future.result() for future in [pool.submit(run, *job) for job in jobs]]
    if part != "all":
        return
    rows = {name: [x for x in results if x["name"] == name] for name in METHODS}
    store(HERE, "scenes", {"results": results})
    lines = [
        "| method | mAP | CF1 | OF1 | calibration error | parameters | multiply-adds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in rows.items():
        scores = [mean_and_error([x[key] for x in each]) for key in ("map", "cf1", "of1", "calibration_error")]
        lines.append(f"| {name} | {' | '.join(scores)} | {each[0]['parameters']:,} | {each[0]['multiply_adds']:,} |")
    into_readme(
        HERE.parent / "README.md",
        "bench_scenes",
        "\n".join(lines) + f"\n\n`python benchmarks/bench_scenes.py` on {machine()}.",
    )
    chosen = {x["name"]: x for x in results if x["name"] in SETTINGS}
    lines = ["| setting | mAP | CF1 | OF1 |", "|---|---|---|---|"]
    lines += [
        f"| {name} | " + " | ".join(f"{100 * x[key]:.1f}" for key in ("map", "cf1", "of1")) + " |"
        for name, x in chosen.items()
    ]
    into_readme(HERE.parent / "README.md", "bench_settings", "\n".join(lines))
    lines = [
        "| method | uncertainty | surest fifth | 2 | 3 | 4 | least sure fifth | rises |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in rows.items():
        for kind in ("between", "within", "total"):
            if kind in each[0]:
                values = np.mean([x[kind] for x in each], axis=0)
                rises = "yes" if np.all(np.diff(values) > 0) else "no"
                lines.append(f"| {name} | {kind} | " + " | ".join(f"{100 * v:.1f}" for v in values) + f" | {rises} |")
    into_readme(HERE.parent / "README.md", "bench_uncertainty", "\n".join(lines))


if __name__ == "__main__":
    tyro.cli(main)
