from .data.augmentation import Augmentation
from .data.sets import ArraySplit, FileSplit, MultiLabelSet, Split
from .data.sources import load
from .deployment import export
from .encoders import Encoder, build, complexity, load_weights, wrap
from .losses.asymmetric import AsymmetricLoss
from .losses.contrastive import MultiLabelSupConLoss, ProbabilisticContrastiveLoss
from .losses.gather import gather, gather_mixtures
from .losses.likelihood import LossParts, MixtureNLL, ProbMCLLoss
from .losses.overlap import label_overlap, positive_rate, positives
from .losses.queue import MemoryQueue
from .metrics import Scores, best_threshold, evaluate
from .mixtures.head import MixtureDensityHead
from .mixtures.parameters import MixtureParameters
from .mixtures.similarity import component_similarity, mixture_similarity
from .mixtures.uncertainty import Uncertainty, error_by_quantile, mutual_information, uncertainty
from .model import ProbMCL
from .plotting import save_map, save_uncertain
from .reliability.conformal import ConformalSets, Coverage
from .reliability.embeddings import LabelGaussians
from .reliability.kinds import mixture_uncertainty, probability_uncertainty
from .reliability.ranking import Ranking, error_ranking, risk_coverage
from .training.config import ClassificationConfig, Config, ContrastiveConfig, HeadConfig

__all__ = [
    "ArraySplit",
    "AsymmetricLoss",
    "Augmentation",
    "ClassificationConfig",
    "Config",
    "ConformalSets",
    "ContrastiveConfig",
    "Coverage",
    "Encoder",
    "FileSplit",
    "HeadConfig",
    "LabelGaussians",
    "LossParts",
    "MemoryQueue",
    "MixtureDensityHead",
    "MixtureNLL",
    "MixtureParameters",
    "MultiLabelSet",
    "MultiLabelSupConLoss",
    "ProbMCL",
    "ProbMCLLoss",
    "ProbabilisticContrastiveLoss",
    "Ranking",
    "Scores",
    "Split",
    "Uncertainty",
    "best_threshold",
    "build",
    "complexity",
    "component_similarity",
    "error_by_quantile",
    "error_ranking",
    "evaluate",
    "export",
    "gather",
    "gather_mixtures",
    "label_overlap",
    "load",
    "load_weights",
    "mixture_similarity",
    "mixture_uncertainty",
    "mutual_information",
    "positive_rate",
    "positives",
    "probability_uncertainty",
    "risk_coverage",
    "save_map",
    "save_uncertain",
    "uncertainty",
    "wrap",
]
