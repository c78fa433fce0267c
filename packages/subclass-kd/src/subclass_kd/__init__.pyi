from .augment import Views
from .bits import Bits, label_bits, mutual_label_bits, soft_label_bits
from .classifier import Classifier
from .compare import CompareConfig, compare
from .comparison import Comparison, Difference, bits_beside_gain
from .config import TrainConfig
from .curriculum import CurriculumSampler, curriculum
from .data import Part, SubclassSet
from .discover import Discovered, discover_subclasses
from .divergence import Split, split_divergence
from .hierarchy import Hierarchy
from .inference import evaluate, predict
from .losses import ClassKDLoss, CrossEntropy, DecoupledKDLoss, Objective, SubclassKDLoss
from .metrics import Scores, score
from .networks import ConvNet, build, complexity, features_of, latency
from .plotting import save_bits, save_confusion, save_gains
from .saved import load_into
from .sources import load
from .teacher import TeacherLogits
from .train import distill, train_teacher
from .votes import Voted, subclasses_from_votes, votes_from_counts

__version__: str
__all__ = [
    "Bits",
    "ClassKDLoss",
    "Classifier",
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
