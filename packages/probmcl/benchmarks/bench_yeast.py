"""ProbMCL on the yeast benchmark (14 labels, 103 features), compared with binary relevance and the asymmetric loss.

    OMP_NUM_THREADS=1 python benchmarks/bench_yeast.py --data PATH/yeast.npz

The split is the benchmark's own. Binary relevance is scikit-learn's logistic regression, one for each label; the other
methods have the same MLP and number of epochs. Means over five seeds and their standard errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from measure import mean_and_error
from probmcl import Config, MultiLabelSet, ProbMCL, evaluate, load
from probmcl.metrics import Scores
from sextet_common.benchmarks import into_readme, machine, store
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).resolve().parent

EPOCHS, SEEDS = 60, range(5)
HALF = {"epochs": EPOCHS // 2, "classifier_epochs": EPOCHS // 2, "lr": 1e-3, "device": "cpu"}
METHODS: dict[str, dict[str, Any]] = {
    "binary relevance, MLP (bce)": {"method": "bce"},
    "asymmetric loss": {"method": "asymmetric"},
    "supervised contrastive, frozen": {"method": "supcon"},
    "ProbMCL, frozen": {"method": "probmcl"},
    "ProbMCL, label-aware, frozen": {"method": "probmcl", "label_aware": "each"},
    "ProbMCL, label-aware, fine-tuned": {"method": "probmcl", "label_aware": "each", "fine_tune": True},
}


def logistic(data: MultiLabelSet) -> Scores:
    """Fit a logistic regression for each label, its strength chosen on the validation part."""
    train, validation, test = data.train, data.validation, data.test
    best: dict[float, float] = {}
    for strength in (0.001, 0.01, 0.1, 1.0):
        best[strength] = evaluate(_regressed(train, validation.inputs, strength), np.array(validation.labels)).mean_ap
    chosen = max(best, key=lambda strength: best[strength])
    return evaluate(_regressed(train, test.inputs, chosen), np.array(test.labels))


def _regressed(train: Any, inputs: np.ndarray, strength: float) -> np.ndarray:
    columns = []
    for label in range(train.labels.shape[1]):
        model = LogisticRegression(C=strength, max_iter=2000).fit(train.inputs, train.labels[:, label])
        columns.append(model.predict_proba(inputs)[:, 1])
    return np.stack(columns, axis=1)


def main(data: Path) -> None:
    """Run the benchmark and put its table into the README.

    Parameters
    ----------
    data
        yeast.npz.
    """
    torch.set_num_threads(1)
    dataset = load(f"npz:{data}")
    results: dict[str, list[Scores]] = {"binary relevance, logistic regression": [logistic(dataset)]}
    for name, options in METHODS.items():
        results[name] = []
        for seed in SEEDS:
            model = ProbMCL("mlp", 14, Config.flat(**{**HALF, **options, "seed": seed})).fit(dataset)
            results[name].append(model.evaluate(dataset.test))
        print(name, mean_and_error([scores.mean_ap for scores in results[name]]), flush=True)
    keys = ("mean_ap", "cf1", "of1", "calibration_error")
    store(HERE, "yeast", {"results": {name: [s.as_dict() for s in each] for name, each in results.items()}})
    lines = ["| method | mAP | CF1 | OF1 | calibration error |", "|---|---|---|---|---|"]
    for name, each in results.items():
        cells = [mean_and_error([getattr(scores, key) for scores in each]) for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    command = "python benchmarks/bench_yeast.py --data yeast.npz"
    into_readme(HERE.parent / "README.md", "bench_yeast", "\n".join(lines) + f"\n\n`{command}` on {machine()}.")


if __name__ == "__main__":
    tyro.cli(main)
