"""How to train: every setting of both stages."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any, Literal, get_args

import torch
from sextet_common.errors import InputError

from probmcl.augment import Augmentation
from probmcl.contrastive import MultiLabelSupConLoss, ProbabilisticContrastiveLoss, Weight
from probmcl.head import Covariance, MeanShape, MixtureDensityHead, Positive
from probmcl.losses import AsymmetricLoss, LabelAware, MixtureNLL, ProbMCLLoss
from probmcl.overlap import Overlap
from probmcl.similarity import Similarity

Method = Literal["probmcl", "supcon", "asymmetric", "bce"]
ClassifierLoss = Literal["asymmetric", "bce"]


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train. What the paper's text would have to say and does not, is *ours*."""

    method: Method = "probmcl"
    """probmcl and supcon have two stages; asymmetric and bce train encoder and classifier in one, as many epochs."""
    seed: int = 0
    """The seed of all random numbers."""
    epochs: int = 30
    """Epochs of the contrastive stage. Methods of one stage take these and classifier_epochs together."""
    classifier_epochs: int = 10
    """Epochs of the classifier."""
    batch_size: int = 64
    """Images in a step; each is seen in two views."""
    lr: float = 2e-3
    """Highest learning rate where the encoder learns: up over a fifth of the steps, then down a cosine."""
    classifier_lr: float = 1e-2
    """Highest learning rate of a classifier on a frozen encoder."""
    weight_decay: float = 1e-4
    """AdamW's, on matrices and kernels alone."""
    fine_tune: bool = False
    """Let the encoder learn in the second stage too, at lr. The mixtures no longer fit it then: no uncertainty."""
    calibrate: bool = True
    """Scale and shift the classifier's logits so that they are calibrated on the validation data: no cost later."""
    require_labels: bool = False
    """Refuse training images without a label. Otherwise they are compared with, and are nobody's positives."""
    dim: int = 128
    """Dimensions of the mixtures, and of supcon's embeddings."""
    n_components: int | None = None
    """Components of a mixture: one for every label where not given, as in the paper."""
    covariance: Covariance = "isotropic"
    """isotropic or diagonal."""
    hidden: tuple[int, ...] = (512,)
    """Widths of the head's trunk before its last layer; the paper's figure has 2048."""
    mean: MeanShape = "vector"
    """vector or scalar means."""
    positive: Positive = "elu"
    """What makes deviations positive: elu, softplus or exp."""
    min_std: float = 0.1
    """The least standard deviation."""
    similarity: Similarity = "log_cosine"
    """log_cosine, cosine, angular or aligned."""
    per_dimension: bool = True
    """Divide logarithmic similarities and the likelihood by the number of dimensions."""
    temperature: float = 0.02
    """Divides the similarities of probmcl: *ours*, for similarities that are divided by the dimensions (else 0.2)."""
    supcon_temperature: float = 0.1
    """Divides the cosines of supcon."""
    threshold: float = 0.5
    """alpha: the least overlap of label sets that makes two images positives, in (0, 1]."""
    measure: Overlap = "jaccard"
    """jaccard, dice, cosine, overlap or containment."""
    positive_weight: Weight = "none"
    """none, or overlap: positives count by their overlap."""
    contrastive_weight: float = 0.3
    """lambda: the weight of the contrastive term beside the likelihood."""
    label_aware: LabelAware = "none"
    """Let component k be label k's: any (a label's component explains the point, as in KMCL), each (*ours*: all of an
    image's labels have equal shares), none (the paper's figure)."""
    classifier_loss: ClassifierLoss = "asymmetric"
    """The second stage's loss."""
    gamma_positive: float = 0.0
    """The asymmetric loss's focusing of positives."""
    gamma_negative: float = 4.0
    """The asymmetric loss's focusing of negatives."""
    margin: float = 0.05
    """The asymmetric loss's margin: easier negatives count nothing."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far the two views may be from their image."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the encoder computes in, by autocast; mixtures and losses are float32 always."""
    checkpoint_every: int = 200
    """Steps between two checkpoints: the most that a kill loses."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("epochs", "classifier_epochs", "batch_size", "dim", "n_components", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", "a whole number >= 1")
        for name in ("lr", "classifier_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}", "a number > 0")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight_decay is {self.weight_decay}", "a number >= 0")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")
        for name, known in (("method", Method), ("classifier_loss", ClassifierLoss)):
            if getattr(self, name) not in get_args(known):
                raise InputError(f"{name} is {getattr(self, name)!r}", ", ".join(get_args(known)))
        if self.per_dimension and self.similarity not in ("log_cosine", "aligned"):
            raise InputError(f"per_dimension with the similarity {self.similarity}", "--no-per-dimension with it")
        if self.label_aware != "none" and self.n_components is not None:
            raise InputError(f"label_aware with n_components {self.n_components}", "one component for every label")
        if self.fine_tune and self.method not in ("probmcl", "supcon"):
            raise InputError(f"fine_tune with the method {self.method}", "probmcl or supcon: the others have one stage")
        # What the parts refuse is refused here already, before any data are read.
        with torch.device("meta"):  # no memory, and no number of torch's global generator
            self.head(in_features=1, n_labels=1)
        self.contrastive_loss()
        self.supcon_loss()
        self.classification_loss()

    @property
    def two_stages(self) -> bool:
        """Whether a contrastive stage comes first."""
        return self.method in ("probmcl", "supcon")

    def head(self, in_features: int, n_labels: int) -> MixtureDensityHead:
        """Make the mixture density head."""
        return MixtureDensityHead(
            in_features,
            self.n_components or n_labels,
            self.dim,
            self.covariance,
            hidden=self.hidden,
            mean=self.mean,
            positive=self.positive,
            min_std=self.min_std,
        )

    def contrastive_loss(self) -> ProbMCLLoss:
        """Make the first stage's loss of probmcl."""
        contrastive = ProbabilisticContrastiveLoss(
            self.temperature,
            self.threshold,
            self.measure,
            self.similarity,
            per_dimension=self.per_dimension,
            weight=self.positive_weight,
        )
        likelihood = MixtureNLL(per_dimension=self.per_dimension, label_aware=self.label_aware)
        return ProbMCLLoss(contrastive, self.contrastive_weight, likelihood)

    def supcon_loss(self) -> MultiLabelSupConLoss:
        """Make the first stage's loss of supcon."""
        return MultiLabelSupConLoss(self.supcon_temperature, self.threshold, self.measure, weight=self.positive_weight)

    def classification_loss(self) -> Any:
        """Make the classifier's loss: binary cross-entropy is the asymmetric loss without its asymmetry."""
        chosen = self.classifier_loss if self.two_stages else self.method
        if chosen == "bce":
            return AsymmetricLoss(0.0, 0.0, 0.0, "batchmean")
        return AsymmetricLoss(self.gamma_positive, self.gamma_negative, self.margin, "batchmean")
