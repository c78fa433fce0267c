"""Knowledge distillation through subclasses, with the label bits it adds."""

from __future__ import annotations

from subclass_kd.augment import Views
from subclass_kd.bits import Bits, label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.compare import CompareConfig, Comparison, Difference, bits_beside_gain, compare
from subclass_kd.curriculum import CurriculumSampler, curriculum
from subclass_kd.data import Part, SubclassSet, load
from subclass_kd.discover import Discovered, discover_subclasses
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.losses import (
    ClassKDLoss,
    CrossEntropy,
    DecoupledKDLoss,
    Objective,
    Split,
    SubclassKDLoss,
    split_divergence,
)
from subclass_kd.metrics import Scores, score
from subclass_kd.networks import ConvNet, build, complexity, features_of, latency
from subclass_kd.plotting import save_bits, save_confusion, save_gains
from subclass_kd.teacher import TeacherLogits
from subclass_kd.train import TrainConfig, distill, evaluate, load_into, predict, train_teacher
from subclass_kd.votes import Voted, subclasses_from_votes, votes_from_counts

__all__ = [
    "Bits",
    "ClassKDLoss",
    "CompareConfig",
    "Comparison",
    "ConvNet",
    "CrossEntropy",
    "CurriculumSampler",
    "DecoupledKDLoss",
    "Difference",
    "Discovered",
    "Hierarchy",
    "Objective",
    "Part",
    "Scores",
    "Split",
    "SubclassKDLoss",
    "SubclassSet",
    "TeacherLogits",
    "TrainConfig",
    "Views",
    "Voted",
    "bits_beside_gain",
    "build",
    "compare",
    "complexity",
    "curriculum",
    "discover_subclasses",
    "distill",
    "evaluate",
    "features_of",
    "label_bits",
    "latency",
    "load",
    "load_into",
    "mutual_label_bits",
    "predict",
    "save_bits",
    "save_confusion",
    "save_gains",
    "score",
    "soft_label_bits",
    "split_divergence",
    "subclasses_from_votes",
    "train_teacher",
    "votes_from_counts",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("subclass-kd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
