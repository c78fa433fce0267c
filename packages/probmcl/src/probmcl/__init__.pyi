from .data.augmentation import Augmentation as Augmentation
from .data.sets import ArraySplit as ArraySplit
from .data.sets import FileSplit as FileSplit
from .data.sets import MultiLabelSet as MultiLabelSet
from .data.sets import Split as Split
from .data.sources import load as load
from .deployment import export as export
from .encoders import Encoder as Encoder
from .encoders import build as build
from .encoders import complexity as complexity
from .encoders import load_weights as load_weights
from .encoders import wrap as wrap
from .losses.asymmetric import AsymmetricLoss as AsymmetricLoss
from .losses.contrastive import MultiLabelSupConLoss as MultiLabelSupConLoss
from .losses.contrastive import ProbabilisticContrastiveLoss as ProbabilisticContrastiveLoss
from .losses.gather import gather as gather
from .losses.gather import gather_mixtures as gather_mixtures
from .losses.likelihood import LossParts as LossParts
from .losses.likelihood import MixtureNLL as MixtureNLL
from .losses.likelihood import ProbMCLLoss as ProbMCLLoss
from .losses.overlap import label_overlap as label_overlap
from .losses.overlap import positive_rate as positive_rate
from .losses.overlap import positives as positives
from .losses.queue import MemoryQueue as MemoryQueue
from .metrics import Scores as Scores
from .metrics import best_threshold as best_threshold
from .metrics import evaluate as evaluate
from .mixtures.head import MixtureDensityHead as MixtureDensityHead
from .mixtures.parameters import MixtureParameters as MixtureParameters
from .mixtures.similarity import mixture_similarity as mixture_similarity
from .mixtures.uncertainty import Uncertainty as Uncertainty
from .mixtures.uncertainty import error_by_quantile as error_by_quantile
from .mixtures.uncertainty import uncertainty as uncertainty
from .model import ProbMCL as ProbMCL
from .plotting import save_map as save_map
from .plotting import save_uncertain as save_uncertain
from .training.config import ClassificationConfig as ClassificationConfig
from .training.config import Config as Config
from .training.config import ContrastiveConfig as ContrastiveConfig
from .training.config import HeadConfig as HeadConfig

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
