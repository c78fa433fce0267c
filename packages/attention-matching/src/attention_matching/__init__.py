"""Dataset distillation by matching attention maps (DataDAM).

Distill a labelled image set into a few images per class, and measure how good they
are: ``Distiller(DistillConfig(ipc=1)).fit(data)``, ``evaluate(distilled, data)``.
"""

from __future__ import annotations

from attention_matching.attention import class_means, spatial_attention
from attention_matching.augment import SiameseAugmentation, augmentation_for
from attention_matching.config import DistillConfig
from attention_matching.distill import Distiller
from attention_matching.distilled import DistilledSet
from attention_matching.evaluate import EvaluateConfig, Evaluation, evaluate, evaluate_random_real
from attention_matching.losses import AttentionMatchingLoss
from attention_matching.networks import ConvNet, Features
from attention_matching.select import random_real, whole_set

__all__ = [
    "AttentionMatchingLoss",
    "ConvNet",
    "DistillConfig",
    "DistilledSet",
    "Distiller",
    "EvaluateConfig",
    "Evaluation",
    "Features",
    "SiameseAugmentation",
    "augmentation_for",
    "class_means",
    "evaluate",
    "evaluate_random_real",
    "random_real",
    "spatial_attention",
    "whole_set",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("attention-matching")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
