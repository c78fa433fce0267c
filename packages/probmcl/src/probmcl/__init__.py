"""Probabilistic multi-label contrastive learning with a mixture density head."""

from __future__ import annotations

from probmcl.augment import Augmentation
from probmcl.config import Config
from probmcl.contrastive import MultiLabelSupConLoss, ProbabilisticContrastiveLoss
from probmcl.data import ArraySplit, FileSplit, MultiLabelSet, Split, load
from probmcl.distributed import gather, gather_mixtures
from probmcl.encoders import Encoder, build, complexity, load_weights, wrap
from probmcl.export import export
from probmcl.head import MixtureDensityHead, MixtureParameters
from probmcl.losses import AsymmetricLoss, LossParts, MixtureNLL, ProbMCLLoss
from probmcl.metrics import Scores, best_threshold, evaluate
from probmcl.model import ProbMCL
from probmcl.overlap import label_overlap, positive_rate, positives
from probmcl.plotting import save_map, save_uncertain
from probmcl.queue import MemoryQueue
from probmcl.similarity import mixture_similarity
from probmcl.uncertainty import Uncertainty, error_by_quantile, uncertainty

__all__ = [
    "ArraySplit",
    "AsymmetricLoss",
    "Augmentation",
    "Config",
    "Encoder",
    "FileSplit",
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


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("probmcl")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
