from .distillation.config import DistillConfig as DistillConfig
from .distillation.distill import Distiller as Distiller
from .distillation.timing import time_steps as time_steps
from .evaluation.accuracy import Evaluation as Evaluation
from .evaluation.config import (
    EvaluateConfig as EvaluateConfig,
)
from .evaluation.config import (
    TrainConfig as TrainConfig,
)
from .evaluation.cross import (
    CrossTable as CrossTable,
)
from .evaluation.cross import (
    cross_architecture as cross_architecture,
)
from .evaluation.evaluate import (
    evaluate as evaluate,
)
from .evaluation.evaluate import (
    evaluate_random_real as evaluate_random_real,
)
from .evaluation.evaluate import (
    evaluate_whole as evaluate_whole,
)
from .evaluation.scores import (
    RobustScores as RobustScores,
)
from .evaluation.scores import (
    augmentation_robust_score as augmentation_robust_score,
)
from .evaluation.scores import (
    label_robust_score as label_robust_score,
)
from .evaluation.scores import (
    robust_scores as robust_scores,
)
from .evaluation.soft_labels import (
    soft_labels_from as soft_labels_from,
)
from .evaluation.soft_labels import (
    train_teacher as train_teacher,
)
from .evaluation.training import train_networks as train_networks
from .experiments.continual import (
    ContinualConfig as ContinualConfig,
)
from .experiments.continual import (
    continual as continual,
)
from .experiments.continual_result import ContinualResult as ContinualResult
from .experiments.grid import (
    PAPERS_GRID as PAPERS_GRID,
)
from .experiments.grid import (
    Grid as Grid,
)
from .experiments.search import (
    SearchConfig as SearchConfig,
)
from .experiments.search import (
    search as search,
)
from .experiments.search import (
    search_data as search_data,
)
from .experiments.search_result import SearchResult as SearchResult
from .experiments.small_sets import (
    small_set as small_set,
)
from .experiments.small_sets import (
    small_sets as small_sets,
)
from .export.card import (
    data_card as data_card,
)
from .export.card import (
    save_card as save_card,
)
from .export.exports import (
    export as export,
)
from .export.exports import (
    export_ddranking as export_ddranking,
)
from .export.exports import (
    export_folder as export_folder,
)
from .export.exports import (
    export_pt as export_pt,
)
from .images.augment import (
    SiameseAugmentation as SiameseAugmentation,
)
from .images.augment import (
    augmentation_for as augmentation_for,
)
from .images.distilled import DistilledSet as DistilledSet
from .images.preprocess import (
    ZCA as ZCA,
)
from .images.preprocess import (
    Preprocessing as Preprocessing,
)
from .images.select import (
    herding as herding,
)
from .images.select import (
    k_centre as k_centre,
)
from .images.select import (
    random_real as random_real,
)
from .images.select import (
    select as select,
)
from .images.select import (
    whole_set as whole_set,
)
from .matching.attention import (
    attention_maps as attention_maps,
)
from .matching.attention import (
    attention_means as attention_means,
)
from .matching.attention import (
    channel_attention as channel_attention,
)
from .matching.attention import (
    class_means as class_means,
)
from .matching.attention import (
    spatial_attention as spatial_attention,
)
from .matching.losses import (
    AttentionMatchingLoss as AttentionMatchingLoss,
)
from .matching.losses import (
    DistributionMatchingLoss as DistributionMatchingLoss,
)
from .matching.losses import (
    Loss as Loss,
)
from .matching.losses import (
    make_loss as make_loss,
)
from .networks.base import (
    FeatureNetwork as FeatureNetwork,
)
from .networks.base import (
    Features as Features,
)
from .networks.build import (
    ARCHITECTURES as ARCHITECTURES,
)
from .networks.build import (
    build as build,
)
from .networks.convnet import ConvNet as ConvNet
from .networks.zoo import (
    VGG11 as VGG11,
)
from .networks.zoo import (
    AlexNet as AlexNet,
)
from .networks.zoo import (
    ResNet18 as ResNet18,
)
from .networks.zoo import (
    ViT as ViT,
)

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
