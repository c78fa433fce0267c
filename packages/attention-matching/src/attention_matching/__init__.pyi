from .distillation.config import DistillConfig as DistillConfig
from .distillation.distill import Distiller as Distiller
from .distillation.timing import time_steps as time_steps
from .evaluation.accuracy import Evaluation as Evaluation, accuracy as accuracy
from .evaluation.config import (
    EvaluateConfig as EvaluateConfig,
    TrainConfig as TrainConfig,
)
from .evaluation.cross import (
    CrossTable as CrossTable,
    cross_architecture as cross_architecture,
)
from .evaluation.evaluate import (
    evaluate as evaluate,
    evaluate_random_real as evaluate_random_real,
    evaluate_whole as evaluate_whole,
)
from .evaluation.scores import (
    RobustScores as RobustScores,
    augmentation_robust_score as augmentation_robust_score,
    label_robust_score as label_robust_score,
    robust_scores as robust_scores,
)
from .evaluation.soft_labels import (
    soft_labels_from as soft_labels_from,
    train_teacher as train_teacher,
)
from .evaluation.training import train_networks as train_networks
from .experiments.continual import (
    ContinualConfig as ContinualConfig,
    continual as continual,
)
from .experiments.continual_result import ContinualResult as ContinualResult
from .experiments.grid import (
    PAPERS_GRID as PAPERS_GRID,
    Grid as Grid,
)
from .experiments.search import (
    SearchConfig as SearchConfig,
    search as search,
    search_data as search_data,
)
from .experiments.search_result import SearchResult as SearchResult
from .experiments.small_sets import (
    small_set as small_set,
    small_sets as small_sets,
)
from .export.card import (
    data_card as data_card,
    save_card as save_card,
)
from .export.exports import (
    export as export,
    export_ddranking as export_ddranking,
    export_folder as export_folder,
    export_pt as export_pt,
)
from .images.augment import (
    SiameseAugmentation as SiameseAugmentation,
    augmentation_for as augmentation_for,
)
from .images.coreset import farthest_first as farthest_first, nearest_mean as nearest_mean
from .images.distilled import DistilledSet as DistilledSet
from .images.preprocess import (
    ZCA as ZCA,
    Preprocessing as Preprocessing,
)
from .images.select import (
    herding as herding,
    k_centre as k_centre,
    random_real as random_real,
    select as select,
    whole_set as whole_set,
)
from .matching.attention import (
    attention_maps as attention_maps,
    attention_means as attention_means,
    channel_attention as channel_attention,
    class_means as class_means,
    spatial_attention as spatial_attention,
)
from .matching.losses import (
    AttentionMatchingLoss as AttentionMatchingLoss,
    DistributionMatchingLoss as DistributionMatchingLoss,
    Loss as Loss,
    make_loss as make_loss,
)
from .networks.base import (
    FeatureNetwork as FeatureNetwork,
    Features as Features,
)
from .networks.build import (
    ARCHITECTURES as ARCHITECTURES,
    Architecture as Architecture,
    build as build,
)
from .networks.convnet import ConvNet as ConvNet
from .networks.layers import Norm as Norm
from .networks.zoo import (
    VGG11 as VGG11,
    AlexNet as AlexNet,
    ResNet18 as ResNet18,
    ViT as ViT,
)

__all__ = [
    "ARCHITECTURES",
    "PAPERS_GRID",
    "VGG11",
    "ZCA",
    "AlexNet",
    "Architecture",
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
    "Norm",
    "Preprocessing",
    "ResNet18",
    "RobustScores",
    "SearchConfig",
    "SearchResult",
    "SiameseAugmentation",
    "TrainConfig",
    "ViT",
    "accuracy",
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
    "farthest_first",
    "herding",
    "k_centre",
    "label_robust_score",
    "make_loss",
    "nearest_mean",
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
