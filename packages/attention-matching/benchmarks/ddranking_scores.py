"""DD-Ranking's label-robust score of a distilled CIFAR-10 set, computed by the public package (0.2.0).

    pip install ddranking==0.2.0
    python benchmarks/ddranking_scores.py runs/dm --data npz-jpeg:PATH/cifar10-jpeg --whole 0.85

The package trains and tests as it does elsewhere. Changed from outside: CIFAR-10 comes from ``--data`` instead of a
download; the random seed is the number of the run instead of the clock; saving its table, which raises, is left out;
it measures the test accuracy every ``--measure-every`` epochs, in the release every 10, and counts the best; the
accuracy of the whole set is ``--whole``, measured by `attention-matching evaluate --whole`, since the release would
train on it for ``--epochs`` in every run. The score is recomputed from fractions, as the release computes it from
percentages. Writes a JSON file.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from attention_matching import export_ddranking, label_robust_score
from attention_matching.distillation.result import read_result
from attention_matching.evaluation.config import TestData
from PIL import Image
from sextet_common import files
from sextet_common.data import ImageSet, to_float

HERE = Path(__file__).resolve().parent
NETWORK = "CIFAR10-ConvNet-3"


class Decoded:
    """Takes the place of torchvision's CIFAR10."""

    def __init__(self, data: ImageSet, train: bool, transform: Any) -> None:
        half = (data.train_images, data.train_labels) if train else (data.test_images, data.test_labels)
        self.images = (to_float(half[0]) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        self.targets, self.transform = half[1].tolist(), transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[row])), self.targets[row]


def score(folder: Path, data: ImageSet, whole: float, settings: dict[str, Any], measure_every: int) -> dict[str, Any]:
    """Run the package on an exported folder; return what it returns, as fractions, and the score."""
    import torchvision.datasets
    from ddranking.config import Config
    from ddranking.metrics import LabelRobustScoreHard, hard_label

    def cifar10(root: str, train: bool, download: bool, transform: Any) -> Decoded:
        return Decoded(data, train, transform)

    torchvision.datasets.CIFAR10 = cifar10
    hard_label.save_results = lambda results, path: None
    hard_label.REAL_DATA_ACC_CACHE[NETWORK] = 100 * whole
    set_seed, seeds = hard_label.set_seed, itertools.count()
    hard_label.set_seed = lambda: set_seed(next(seeds))

    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    evaluator = LabelRobustScoreHard(Config.from_file(str(folder / "config.json")))
    if config["use_zca"]:  # labels of whitened data sets are tensors, which the random choice looks up directly
        evaluator.class_map = type("Numbers", (dict,), {"__missing__": lambda self, label: self[int(label)]})(
            evaluator.class_map
        )
    evaluator.test_interval = measure_every
    images, labels = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("images", "labels"))
    result = evaluator.compute_metrics(image_tensor=images, hard_labels=labels)
    fractions = {name: value / 100 for name, value in result.items() if not name.startswith("label_robust")}
    recovery, improvement = (fractions[f"{name}_mean"] for name in ("hard_label_recovery", "improvement_over_random"))
    return {**fractions, "label_robust_score": label_robust_score(recovery, improvement)}


def main(
    run: tyro.conf.Positional[Path],
    /,
    whole: float,
    images: TestData,
    runs: int = 5,
    epochs: int = 1000,
    measure_every: int = 10,
    device: str = "cpu",
    out: Path = HERE / "results" / "ddranking.json",
) -> None:
    """Score one set.

    Parameters
    ----------
    run
        A run folder, or the file of a set, compact or not; whitened as it was distilled.
    whole
        Test accuracy of the whole training set, in [0, 1].
    images
        CIFAR-10.
    runs
        Evaluations: each trains ten networks, five learning rates on the set and five on random images.
    epochs
        Passes over the set.
    measure_every
        Epochs between two measurements on the test images.
    device
        cpu or cuda.
    out
        The JSON file; its entry for this set is replaced.
    """
    distilled, source, data = read_result(run, images)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        export_ddranking(distilled, folder, "CIFAR10")
        changed = {"num_eval": runs, "num_epochs": epochs, "step_size": max(1, epochs // 2), "device": device}
        paths = {"save_path": f"{temporary}/scores.csv", "random_data_path": f"{temporary}/random"}
        settings = {**changed, **paths, "eval_full_data": False, "num_workers": 0}
        result = score(folder, data, whole, settings, measure_every)
    entry = {"data": source, "whole": whole, **changed, "measure_every": measure_every, **result}
    entry["seconds"] = round(time.perf_counter() - began, 1)
    table = json.loads(out.read_text()) if out.exists() else {}
    files.write_text(out, json.dumps({**table, str(run.name): entry}, indent=2) + "\n")
    print(json.dumps({run.name: entry}, indent=2))


if __name__ == "__main__":
    spread: Any = tyro.conf.OmitArgPrefixes
    tyro.cli(main, config=(spread,))
