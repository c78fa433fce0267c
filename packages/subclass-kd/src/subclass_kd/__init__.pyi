from .augment import Views
from .bits import Bits, label_bits, mutual_label_bits, soft_label_bits
from .class_sum import ClassSum
from .classifier import Classifier
from .clinical.delong import AurocTest, auroc_interval, auroc_test
from .clinical.files import save_clinical
from .clinical.heatmaps import heat_maps
from .clinical.measures import Interval, choose_threshold
from .clinical.report import ClinicalConfig, ClinicalReport, clinical_report
from .compare import CompareConfig, compare
from .comparison import Comparison, Difference, bits_beside_gain
from .config import TrainConfig
from .cross_validation import folds
from .curriculum import CurriculumSampler, curriculum
from .data import Part, SubclassSet
from .deployment import export
from .discover import Discovered, LayerChoice, choose_layer, discover_subclasses
from .divergence import Split, split_divergence
from .hierarchy import Hierarchy
from .inference import evaluate, predict
from .layers import layer_features
from .losses import (
    ClassKDLoss,
    CrossEntropy,
    DecoupledKDLoss,
    DISTLoss,
    LearnedSubclassLoss,
    Objective,
    StandardizedKDLoss,
    SubclassKDLoss,
)
from .metrics import Scores, score
from .networks import ConvNet, build, complexity, features_of
from .plotting import save_bits, save_confusion, save_gains
from .saved import load_into
from .sources import load
from .tables import save_table
from .teacher import TeacherLogits
from .timing import Latency, latency
from .train import distill, train_teacher
from .votes import Voted, subclasses_from_votes, votes_from_counts

__version__: str
__all__ = [
    "AurocTest",
    "Bits",
    "ClassKDLoss",
    "ClassSum",
    "Classifier",
    "ClinicalConfig",
    "ClinicalReport",
    "CompareConfig",
    "Comparison",
    "ConvNet",
    "CrossEntropy",
    "CurriculumSampler",
    "DISTLoss",
    "DecoupledKDLoss",
    "Difference",
    "Discovered",
    "Hierarchy",
    "Interval",
    "Latency",
    "LayerChoice",
    "LearnedSubclassLoss",
    "Objective",
    "Part",
    "Scores",
    "Split",
    "StandardizedKDLoss",
    "SubclassKDLoss",
    "SubclassSet",
    "TeacherLogits",
    "TrainConfig",
    "Views",
    "Voted",
    "auroc_interval",
    "auroc_test",
    "bits_beside_gain",
    "build",
    "choose_layer",
    "choose_threshold",
    "clinical_report",
    "compare",
    "complexity",
    "curriculum",
    "discover_subclasses",
    "distill",
    "evaluate",
    "export",
    "features_of",
    "folds",
    "heat_maps",
    "label_bits",
    "latency",
    "layer_features",
    "load",
    "load_into",
    "mutual_label_bits",
    "predict",
    "save_bits",
    "save_clinical",
    "save_confusion",
    "save_gains",
    "save_table",
    "score",
    "soft_label_bits",
    "split_divergence",
    "subclasses_from_votes",
    "train_teacher",
    "votes_from_counts",
]
