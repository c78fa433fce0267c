from .data.augmentation import Augmentation as Augmentation
from .data.sets import ArraySplit as ArraySplit, FileSplit as FileSplit, MultiLabelSet as MultiLabelSet, Split as Split
from .data.sources import load as load
from .deployment import export as export
from .encoders import (
    Encoder as Encoder,
    build as build,
    complexity as complexity,
    load_weights as load_weights,
    wrap as wrap,
)
from .losses.asymmetric import AsymmetricLoss as AsymmetricLoss
from .losses.contrastive import (
    MultiLabelSupConLoss as MultiLabelSupConLoss,
    ProbabilisticContrastiveLoss as ProbabilisticContrastiveLoss,
)
from .losses.gather import gather as gather, gather_mixtures as gather_mixtures
from .losses.likelihood import LossParts as LossParts, MixtureNLL as MixtureNLL, ProbMCLLoss as ProbMCLLoss
from .losses.overlap import label_overlap as label_overlap, positive_rate as positive_rate, positives as positives
from .losses.queue import MemoryQueue as MemoryQueue
from .metrics import Scores as Scores, best_threshold as best_threshold, evaluate as evaluate
from .mixtures.head import MixtureDensityHead as MixtureDensityHead
from .mixtures.parameters import MixtureParameters as MixtureParameters
from .mixtures.similarity import mixture_similarity as mixture_similarity
from .mixtures.uncertainty import (
    Uncertainty as Uncertainty,
    error_by_quantile as error_by_quantile,
    uncertainty as uncertainty,
)
from .model import ProbMCL as ProbMCL
from .plotting import save_map as save_map, save_uncertain as save_uncertain
from .training.config import (
    ClassificationConfig as ClassificationConfig,
    Config as Config,
    ContrastiveConfig as ContrastiveConfig,
    HeadConfig as HeadConfig,
)

__all__ = [
    "ArraySplit",
    "AsymmetricLoss",
    "Augmentation",
    "ClassificationConfig",
    "Config",
    "ContrastiveConfig",
    "Encoder",
    "FileSplit",
    "HeadConfig",
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
    "Scores",
    "Split",
    "Uncertainty",
    "best_threshold",
    "build",
    "complexity",
    "error_by_quantile",
    "evaluate",
    "export",
    "gather",
    "gather_mixtures",
    "label_overlap",
    "load",
    "load_weights",
    "mixture_similarity",
    "positive_rate",
    "positives",
    "save_map",
    "save_uncertain",
    "uncertainty",
    "wrap",
]
