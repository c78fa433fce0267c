"""Requirements and instructions of DD-Ranking 0.2.0, read off that release, which is not imported.

References
----------
Li et al., DD-Ranking: Rethinking the Evaluation of Dataset Distillation, arXiv 2505.13300.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from sextet_common.errors import InputError

from attention_matching.images.distilled import DistilledSet

# Number of classes, and the network in its table of trainings on real data.
_DATASETS = {
    "CIFAR10": (10, "ConvNet-3"),
    "CIFAR100": (100, "ConvNet-3"),
    "TinyImageNet": (200, "ConvNet-4-BN"),
    "ImageNet1K": (1000, "ResNet-18-BN"),
}

_README = """# {dataset}, {ipc} images per class, for DD-Ranking 0.2.0

```python
import torch
from attention_matching import label_robust_score
from ddranking.config import Config
from ddranking.metrics import LabelRobustScoreHard, hard_label

hard_label.save_results = lambda results, path: None
evaluator = LabelRobustScoreHard(Config.from_file("config.json"))
{zca}images, labels = (torch.load(name, weights_only=True) for name in ("images.pt", "labels.pt"))
result = evaluator.compute_metrics(image_tensor=images, hard_labels=labels)
recovery, improvement = (result[key] / 100 for key in ("hard_label_recovery_mean", "improvement_over_random_mean"))
print(label_robust_score(recovery, improvement))
```

What to know of that release:

- The columns of its results differ in length, so saving them raises once all is computed: `save_results` is replaced.
- The score that it prints is computed from percentages and is not in [0, 1]: the last two lines recompute it.
- Its accuracies are the best on the test set over the epochs, and the learning rate for random images is the best of
  five on the test set. Without `syn_lr` the same is done for these images; with it, the comparison is not fair.
- It cannot compute its augmentation-robust score for hard labels, since it looks for a teacher and a test set that it
  never creates: `attention_matching.robust_scores` computes one.
- Its files have no place for a set's labels of augmented views: these are left out.
"""

_ZCA = """

class Numbers(dict):  # labels of whitened data sets are tensors, which the random choice looks up directly
    def __missing__(self, label):
        return self[int(label)]


evaluator.class_map = Numbers(evaluator.class_map)
"""


def check_classes(distilled: DistilledSet, dataset: str) -> None:
    """Refuse a set that DD-Ranking would score wrongly, as far as the class names show.

    ``dataset`` is DD-Ranking's name of the data set; the classes must be its own, in its order, with equal numbers of
    images.
    """
    if dataset not in _DATASETS:
        raise InputError(f"data set {dataset!r} is unknown to DD-Ranking", ", ".join(_DATASETS))
    count, _ = _DATASETS[dataset]
    names = list(distilled.classes)
    if len(names) != count:
        raise InputError(f"{len(names)} classes", f"{count}, as {dataset} has")
    per_class = torch.bincount(distilled.labels, minlength=count)
    if int(per_class.min()) != int(per_class.max()):
        raise InputError(
            f"{int(per_class.min())} to {int(per_class.max())} images per class", "the same number of every class"
        )
    numbers = [str(k) for k in range(count)]
    # CIFAR's classes are in the order of their names, ImageNet's in the order of their WordNet numbers.
    sorted_by_wordnet = names == sorted(names) and all(re.fullmatch(r"n\d{8}", name) for name in names)
    ordered = names == sorted(names) if dataset.startswith("CIFAR") else sorted_by_wordnet
    if not ordered and names != numbers:
        kind = "names" if dataset.startswith("CIFAR") else "WordNet numbers (n01440764, ...)"
        raise InputError(f"classes {names[0]!r}, {names[1]!r}, ...", f"{dataset}'s {kind} in alphabetical order")


def configuration(distilled: DistilledSet, dataset: str) -> dict[str, Any]:
    """Return every key that LabelRobustScoreHard reads (some raise if absent), with the papers' training."""
    epochs = 1000
    return {
        "dataset": dataset,
        "real_data_path": "./dataset/",
        "ipc": round(distilled.ipc),
        "im_size": list(distilled.images.shape[2:]),
        "model_name": _DATASETS[dataset][1],
        "use_torchvision": False,
        "use_zca": distilled.preprocessing.zca is not None,
        "custom_train_trans": None,
        "custom_val_trans": None,
        "data_aug_func": "dsa",
        "aug_params": {
            "flip": 0.5,
            "rotate": 15.0,
            "saturation": 2.0,
            "brightness": 1.0,
            "contrast": 0.5,
            "scale": 1.2,
            "crop": 0.125,
            "cutout": 0.5,
        },
        "optimizer": "sgd",
        "weight_decay": 0.0005,
        "momentum": 0.9,
        "lr_scheduler": "step",
        "step_size": epochs // 2,
        "num_epochs": epochs,
        "num_eval": 5,
        "syn_batch_size": 256,
        "real_batch_size": 256,
        "eval_full_data": True,
        "random_data_format": "tensor",
        "random_data_path": None,
        "num_workers": 4,
        "device": "cuda",
        "dist": False,
        "save_path": "./results/scores.csv",
    }


def instructions(config: dict[str, Any]) -> str:
    """Return Markdown instructions to score the set, around the faults of the release."""
    return _README.format(**config, zca=_ZCA if config["use_zca"] else "")
