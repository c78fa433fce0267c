"""Dataset distillation by matching attention maps (DataDAM, ATOM) or features (DM).

Distill a labelled image set into a few images per class, and measure how good they
are: ``Distiller(DistillConfig(ipc=1)).fit(data)``, ``evaluate(distilled, data)``.
"""

from __future__ import annotations

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller
from attention_matching.distillation.timing import time_steps
from attention_matching.evaluation.cross import CrossTable, cross_architecture
from attention_matching.evaluation.evaluate import (
    EvaluateConfig,
    Evaluation,
    evaluate,
    evaluate_random_real,
    evaluate_whole,
)
from attention_matching.evaluation.scores import (
    RobustScores,
    augmentation_robust_score,
    label_robust_score,
    robust_scores,
)
from attention_matching.evaluation.soft_labels import soft_labels_from, train_teacher
from attention_matching.evaluation.training import TrainConfig, train_networks
from attention_matching.experiments.continual import ContinualConfig, continual
from attention_matching.experiments.continual_result import ContinualResult
from attention_matching.experiments.grid import PAPERS_GRID, Grid
from attention_matching.experiments.search import SearchConfig, search, search_data
from attention_matching.experiments.search_result import SearchResult
from attention_matching.experiments.small_sets import small_set, small_sets
from attention_matching.export.card import data_card, save_card
from attention_matching.export.exports import export, export_ddranking, export_folder, export_pt
from attention_matching.images.augment import SiameseAugmentation, augmentation_for
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import ZCA, Preprocessing
from attention_matching.images.select import herding, k_centre, random_real, select, whole_set
from attention_matching.matching.attention import (
    attention_maps,
    attention_means,
    channel_attention,
    class_means,
    spatial_attention,
)
from attention_matching.matching.losses import AttentionMatchingLoss, DistributionMatchingLoss, Loss, make_loss
from attention_matching.networks.base import FeatureNetwork, Features
from attention_matching.networks.build import ARCHITECTURES, build
from attention_matching.networks.convnet import ConvNet
from attention_matching.networks.zoo import VGG11, AlexNet, ResNet18, ViT

__all__ = [
    "ARCHITECTURES",
    "PAPERS_GRID",
    "VGG11",
    "ZCA",
    "AlexNet",
    "AttentionMatchingLoss",
    "ContinualConfig",
    "ContinualResult",
    "ConvNet",
    "CrossTable",
    "DistillConfig",
    "DistilledSet",
    "Distiller",
    "DistributionMatchingLoss",
    "EvaluateConfig",
    "Evaluation",
    "FeatureNetwork",
    "Features",
    "Grid",
    "Loss",
    "Preprocessing",
    "ResNet18",
    "RobustScores",
    "SearchConfig",
    "SearchResult",
    "SiameseAugmentation",
    "TrainConfig",
    "ViT",
    "attention_maps",
    "attention_means",
    "augmentation_for",
    "augmentation_robust_score",
    "build",
    "channel_attention",
    "class_means",
    "continual",
    "cross_architecture",
    "data_card",
    "evaluate",
    "evaluate_random_real",
    "evaluate_whole",
    "export",
    "export_ddranking",
    "export_folder",
    "export_pt",
    "herding",
    "k_centre",
    "label_robust_score",
    "make_loss",
    "random_real",
    "robust_scores",
    "save_card",
    "search",
    "search_data",
    "select",
    "small_set",
    "small_sets",
    "soft_labels_from",
    "spatial_attention",
    "time_steps",
    "train_networks",
    "train_teacher",
    "whole_set",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("attention-matching")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
