from .distillation.compose import compose_patches
from .distillation.config import ComposeConfig, DistillConfig
from .distillation.distill import Distiller
from .distillation.timing import time_steps
from .evaluation.accuracy import Evaluation, accuracy
from .evaluation.config import EvaluateConfig, TrainConfig
from .evaluation.cross import CrossTable, cross_architecture
from .evaluation.evaluate import evaluate, evaluate_random_real, evaluate_whole
from .evaluation.learned_labels import learned_labels_from
from .evaluation.scores import RobustScores, augmentation_robust_score, label_robust_score, robust_scores
from .evaluation.soft_labels import soft_labels_from, train_teacher, view_labels_from
from .evaluation.training import train_networks
from .experiments.continual import ContinualConfig, continual
from .experiments.continual_result import ContinualResult
from .experiments.grid import PAPERS_GRID, Grid
from .experiments.search import SearchConfig, search, search_data
from .experiments.search_result import SearchResult
from .experiments.small_sets import small_set, small_sets
from .export.card import data_card, save_card
from .export.exports import export, export_ddranking, export_folder, export_pt
from .export.hub_folder import export_hub
from .images.augment import SiameseAugmentation, augmentation_for
from .images.coreset import farthest_first, nearest_mean
from .images.distilled import DistilledSet
from .images.inputs import RealInputs
from .images.preprocess import ZCA, Preprocessing
from .images.select import herding, k_centre, proportional_counts, random_real, select, whole_set
from .images.view_labels import ViewLabels
from .kinds import ARCHITECTURES, Architecture, Norm
from .matching.attention import attention_maps, attention_means, channel_attention, class_means, spatial_attention
from .matching.balance import balanced_attention_weight
from .matching.losses import AttentionMatchingLoss, DistributionMatchingLoss, Loss, make_loss
from .networks.base import FeatureNetwork, Features
from .networks.build import build
from .networks.convnet import ConvNet
from .networks.zoo import VGG11, AlexNet, ResNet18, ViT

__all__ = [
    "ARCHITECTURES",
    "PAPERS_GRID",
    "VGG11",
    "ZCA",
    "AlexNet",
    "Architecture",
    "AttentionMatchingLoss",
    "ComposeConfig",
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
    "Norm",
    "Preprocessing",
    "RealInputs",
    "ResNet18",
    "RobustScores",
    "SearchConfig",
    "SearchResult",
    "SiameseAugmentation",
    "TrainConfig",
    "ViT",
    "ViewLabels",
    "accuracy",
    "attention_maps",
    "attention_means",
    "augmentation_for",
    "augmentation_robust_score",
    "balanced_attention_weight",
    "build",
    "channel_attention",
    "class_means",
    "compose_patches",
    "continual",
    "cross_architecture",
    "data_card",
    "evaluate",
    "evaluate_random_real",
    "evaluate_whole",
    "export",
    "export_ddranking",
    "export_folder",
    "export_hub",
    "export_pt",
    "farthest_first",
    "herding",
    "k_centre",
    "label_robust_score",
    "learned_labels_from",
    "make_loss",
    "nearest_mean",
    "proportional_counts",
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
    "view_labels_from",
    "whole_set",
]
