"""Settings of both stages. Defaults that the paper does not give are our choice."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from sextet_common.checks import (
    Count,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Running,
    ShareBelowOne,
    check_fields,
)
from sextet_common.errors import InputError
from sextet_common.options import Advanced

from probmcl.data.augmentation import Augmentation
from probmcl.losses.asymmetric import AsymmetricLoss
from probmcl.losses.contrastive import MultiLabelSupConLoss, ProbabilisticContrastiveLoss, Weight
from probmcl.losses.likelihood import LabelAware, MixtureNLL, ProbMCLLoss
from probmcl.losses.overlap import Overlap
from probmcl.mixtures.head import MeanShape, MixtureDensityHead, StdActivation
from probmcl.mixtures.parameters import Covariance
from probmcl.mixtures.similarity import LOGARITHMIC, Similarity


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Settings of the mixture density head."""

    dim: Count = 128
    """Dimensions of the mixtures, and of supcon's embeddings."""
    n_components: Advanced[Count | None] = None
    """Components of a mixture: by default one for every label, as in the paper."""
    covariance: Advanced[Covariance] = "isotropic"
    """isotropic or diagonal."""
    hidden: Advanced[tuple[Count, ...]] = (512,)
    """Widths of the head's trunk before its last layer; the paper's figure has 2048."""
    mean: Advanced[MeanShape] = "vector"
    """vector or scalar means."""
    positive: Advanced[StdActivation] = "elu"
    """Function that makes deviations positive: elu, softplus or exp."""
    min_std: Advanced[Positive] = 0.1
    """Smallest standard deviation."""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, in_features: int, n_labels: int) -> MixtureDensityHead:
        """Build the head for features of a given width."""
        options = {**vars(self), "n_components": self.n_components or n_labels}
        return MixtureDensityHead(in_features, **options)


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Settings of the first stage's loss: positives, similarity and the weight of the terms."""

    threshold: PositiveShare = 0.5
    """alpha: smallest overlap of label sets that makes two images positives, in (0, 1]."""
    measure: Advanced[Overlap] = "jaccard"
    """jaccard, dice, cosine, overlap or containment."""
    positive_weight: Advanced[Weight] = "none"
    """none, or overlap: weight positives by their overlap."""
    similarity: Advanced[Similarity] = "log_cosine"
    """log_cosine, cosine, angular or aligned."""
    per_dimension: Advanced[bool] = True
    """Divide logarithmic similarities and the likelihood by the number of dimensions."""
    temperature: Positive = 0.02
    """Divides the similarities of probmcl. Our choice, for similarities divided by the dimensions (otherwise 0.2)."""
    supcon_temperature: Advanced[Positive] = 0.1
    """Divides the cosines of supcon."""
    contrastive_weight: NonNegative = 0.3
    """lambda: weight of the contrastive term relative to the likelihood."""
    label_aware: Advanced[LabelAware] = "none"
    """Tie component k to label k: any (the point comes from a component of one of the image's labels, as in KMCL),
    each (all of an image's labels have equal shares; not in the paper), none (the paper's figure)."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.per_dimension and self.similarity not in LOGARITHMIC:
            raise InputError(f"per_dimension with the similarity {self.similarity}", "--no-per-dimension with it")

    def probmcl_loss(self) -> ProbMCLLoss:
        """Build the loss of probmcl."""
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
        """Build the loss of supcon."""
        return MultiLabelSupConLoss(self.supcon_temperature, self.threshold, self.measure, weight=self.positive_weight)


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """Settings of the classifier's loss."""

    classifier_loss: Literal["asymmetric", "bce"] = "asymmetric"
    """Loss of the second stage."""
    gamma_positive: Advanced[NonNegative] = 0.0
    """Focusing exponent of positives in the asymmetric loss."""
    gamma_negative: Advanced[NonNegative] = 4.0
    """Focusing exponent of negatives in the asymmetric loss."""
    margin: Advanced[ShareBelowOne] = 0.05
    """Negatives with a probability below this margin have no asymmetric loss."""

    def __post_init__(self) -> None:
        check_fields(self)

    def loss(self, name: str | None = None) -> AsymmetricLoss:
        """Build a loss by name; binary cross-entropy is the asymmetric loss without its asymmetry."""
        if (name or self.classifier_loss) == "bce":
            return AsymmetricLoss(0.0, 0.0, 0.0, "batchmean")
        return AsymmetricLoss(self.gamma_positive, self.gamma_negative, self.margin, "batchmean")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a training.

    On the command line and in run folders the settings of ``head``, ``contrastive`` and ``classification`` stand beside
    the others, each by its own name; `flat` and `as_flat` convert.

    Examples
    --------
    >>> Config.flat(epochs=5, dim=64, temperature=0.1).head.dim
    64
    """

    method: Literal["probmcl", "supcon", "asymmetric", "bce"] = "probmcl"
    """probmcl and supcon have two stages; asymmetric and bce train encoder and classifier in one, for as many epochs
    in total."""
    seed: Natural = 0
    """Seed of all random numbers."""
    epochs: Count = 30
    """Epochs of the contrastive stage. Methods with one stage train for these and classifier_epochs together. The
    learning rates' schedules depend on both: a run of fewer cannot go on."""
    classifier_epochs: Count = 10
    """Epochs of the classifier."""
    batch_size: Count = 64
    """Images in a step; each is seen in two views."""
    lr: Positive = 2e-3
    """Highest learning rate while the encoder learns: linear over a fifth of the steps, then a cosine to 0."""
    classifier_lr: Positive = 1e-2
    """Highest learning rate of a classifier on a frozen encoder."""
    weight_decay: Advanced[NonNegative] = 1e-4
    """Weight decay of AdamW, on matrices and convolution kernels only."""
    fine_tune: Advanced[bool] = False
    """Train the encoder in the second stage too, at lr. The mixtures no longer fit it then: no uncertainty."""
    calibrate: Advanced[bool] = True
    """Scale and shift the classifier's logits so that they are calibrated on the validation data."""
    require_labels: Advanced[bool] = False
    """Refuse training images without a label. Otherwise others are compared with them, but they have no positives."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Mixture density head."""
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """Loss of the first stage."""
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    """Loss of the classifier."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far the two views may differ from their image."""
    precision: Advanced[Literal["float32", "bfloat16"]] = "float32"
    """Precision of the encoder, by autocast; mixtures and losses are always float32."""
    checkpoint_every: Running[Count] = 200
    """Steps between two checkpoints: the most that a killed run loses."""
    device: Running[str] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        check_fields(self)
        label_aware, n_components = self.contrastive.label_aware, self.head.n_components
        if label_aware != "none" and n_components is not None:
            raise InputError(f"label_aware with n_components {n_components}", "one component for every label")
        if self.fine_tune and not self.two_stages:
            raise InputError(f"fine_tune with the method {self.method}", "probmcl or supcon: the others have one stage")

    @property
    def two_stages(self) -> bool:
        """Whether a contrastive stage comes first."""
        return self.method in ("probmcl", "supcon")

    @property
    def has_mixtures(self) -> bool:
        """Whether a model trained with these settings has mixtures that fit its encoder."""
        return self.method == "probmcl" and not self.fine_tune

    def classification_loss(self) -> AsymmetricLoss:
        """Build the loss that trains the classifier."""
        return self.classification.loss(None if self.two_stages else self.method)

    @classmethod
    def flat(cls, **options: Any) -> Config:
        """Build from flat names, as on the command line and in run folders."""
        return cls(**_nested(options))

    def as_flat(self) -> dict[str, Any]:
        """Return the settings by flat names, those of the augmentation as a dictionary."""
        nested = dataclasses.asdict(self)
        for section in _SECTIONS:
            nested |= nested.pop(section)
        return nested

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in _SECTION_OF:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            section = _SECTION_OF[name]
            warnings.warn(f"Config.{name} is deprecated; use Config.{section}.{name}", DeprecationWarning, stacklevel=2)
            return getattr(getattr(self, section), name)


_SECTIONS: dict[str, type[Any]] = {
    "head": HeadConfig,
    "contrastive": ContrastiveConfig,
    "classification": ClassificationConfig,
}
_SECTION_OF = {f.name: section for section, kind in _SECTIONS.items() for f in dataclasses.fields(kind)}


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """Move options with flat names into their sections."""
    nested = {name: value for name, value in options.items() if name not in _SECTION_OF}
    for section, kind in _SECTIONS.items():
        values = {name: value for name, value in options.items() if _SECTION_OF.get(name) == section}
        if values:
            nested[section] = dataclasses.replace(nested.get(section, kind()), **values)
    return nested


def _accept_flat_names(config: Any) -> None:
    """Let the constructor accept the flat names of release 0.1, with a warning."""
    constructor = config.__init__

    @functools.wraps(constructor)
    def initialise(self: Config, *values: Any, **options: Any) -> None:
        for name in sorted(_SECTION_OF.keys() & options.keys())[:1]:
            section = _SECTION_OF[name]
            hint = f"Config({section}={_SECTIONS[section].__name__}({name}=...)) or Config.flat({name}=...)"
            warnings.warn(f"Config({name}=...) is deprecated; use {hint}", DeprecationWarning, stacklevel=2)
        constructor(self, *values, **_nested(options))

    config.__init__ = initialise


_accept_flat_names(Config)
