"""Settings of a training. Defaults that the paper does not give are our choice."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
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
from probmcl.losses.contrastive import MultiLabelSupConLoss, ProbabilisticContrastiveLoss
from probmcl.losses.likelihood import LabelAware, MixtureNLL, ProbMCLLoss
from probmcl.losses.overlap import Overlap
from probmcl.losses.pairwise import Positives, Weight
from probmcl.mixtures.head import MeanShape, MixtureDensityHead, StdActivation
from probmcl.mixtures.parameters import Covariance
from probmcl.mixtures.similarity import Similarity


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
    normalise: Advanced[bool] = True
    """Scale vector means to the length sqrt(dim), so that similarities do not depend on the dimensions."""
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
    """Settings of the contrastive term and of the likelihood: positives, similarity and weights."""

    threshold: PositiveShare = 0.5
    """alpha: smallest overlap of label sets that makes two images positives, in (0, 1]."""
    measure: Advanced[Overlap] = "jaccard"
    """jaccard, dice, cosine, overlap or containment."""
    positive_weight: Advanced[Weight] = "none"
    """none, or overlap: weight positives by their overlap."""
    positives: Advanced[Positives] = "threshold"
    """threshold, or per_label: images that share a label, an anchor once for each of its labels (MulSupCon)."""
    similarity: Advanced[Similarity] = "label"
    """label (components of the same label; the threshold does not matter), mixture, cosine, angular or aligned."""
    per_dimension: Advanced[bool] = True
    """Divide the logarithms of similarities and the likelihood by the number of dimensions."""
    temperature: Positive | None = None
    """Divides the similarities of probmcl; by default 0.2 for label and with --no-per-dimension, 0.1 for angular,
    otherwise 0.05."""
    learn_temperature: Advanced[bool] = False
    """Learn the temperature, as in CLIP, from 0.01 upwards."""
    supcon_temperature: Advanced[Positive] = 0.1
    """Divides the cosines of supcon."""
    contrastive_weight: NonNegative = 0.3
    """lambda: weight of the contrastive term. Zero skips it."""
    likelihood_weight: NonNegative = 0.0
    """Weight of the label-free likelihood of the other view. Zero skips it."""
    label_aware: Advanced[LabelAware] = "none"
    """Tie component k to label k: any (the point comes from a component of one of the image's labels, as in KMCL),
    each (all of an image's labels have equal shares; not in the paper), none (the paper's figure)."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.label_aware != "none" and self.likelihood_weight == 0:
            raise InputError(f"label_aware {self.label_aware} with likelihood_weight 0", "a weight above 0, or none")

    def probmcl_loss(self) -> ProbMCLLoss:
        """Build the loss of probmcl."""
        contrastive = ProbabilisticContrastiveLoss(
            self.temperature,
            self.threshold,
            self.measure,
            self.similarity,
            per_dimension=self.per_dimension,
            weight=self.positive_weight,
            positives=self.positives,
            learn_temperature=self.learn_temperature,
        )
        likelihood = MixtureNLL(per_dimension=self.per_dimension, label_aware=self.label_aware)
        return ProbMCLLoss(contrastive, self.contrastive_weight, likelihood, likelihood_weight=self.likelihood_weight)

    def supcon_loss(self) -> MultiLabelSupConLoss:
        """Build the loss of supcon."""
        return MultiLabelSupConLoss(
            self.supcon_temperature,
            self.threshold,
            self.measure,
            weight=self.positive_weight,
            positives=self.positives,
            learn_temperature=self.learn_temperature,
        )


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """Settings of the classifier's loss."""

    classifier_loss: Literal["asymmetric", "bce"] = "asymmetric"
    """Loss of the classifier in the methods probmcl and supcon."""
    gamma_positive: Advanced[NonNegative] = 0.0
    """Focusing exponent of positives in the asymmetric loss."""
    gamma_negative: Advanced[NonNegative] = 4.0
    """Focusing exponent of negatives in the asymmetric loss."""
    margin: Advanced[ShareBelowOne] = 0.05
    """Negatives with a probability below this margin have no asymmetric loss."""

    def __post_init__(self) -> None:
        check_fields(self)

    def loss(self, name: str) -> AsymmetricLoss:
        """Build a loss by name; binary cross-entropy is the asymmetric loss without its asymmetry."""
        if name == "bce":
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
    """probmcl and supcon have a contrastive term; asymmetric and bce train encoder and classifier by that loss alone,
    for as many epochs in total."""
    mode: Literal["joint", "two_stage", "auto"] = "auto"
    """joint: encoder, head and classifier learn together, by the sum of the classifier's loss and the weighted terms.
    two_stage: first encoder and head, then the classifier. auto: two_stage for pre-trained weights or fine_tune,
    joint otherwise."""
    seed: Natural = 0
    """Seed of all random numbers."""
    epochs: Count = 30
    """Epochs of the contrastive stage. With one stage, training takes these and classifier_epochs together. The
    learning rates' schedules depend on both: a run of fewer cannot go on."""
    classifier_epochs: Count = 10
    """Epochs of the classifier."""
    batch_size: Count = 64
    """Labelled images in a step; each is seen in two views."""
    unlabelled_ratio: NonNegative = 1.0
    """Unlabelled images in a step for each labelled one, if the data have any. An epoch ends when all labelled and all
    unlabelled images have been seen."""
    consistency_weight: Advanced[NonNegative] = 1.0
    """Weight of the binary cross-entropy on the second view of unlabelled images against the confident predictions on
    their first view, as FixMatch for each label. Zero skips it."""
    confidence: Advanced[PositiveShare] = 0.9
    """Predictions above it, or below 1 - it, are confident."""
    lr: Positive = 2e-3
    """Highest learning rate while the encoder learns."""
    classifier_lr: Positive = 1e-2
    """Highest learning rate of a classifier on a frozen encoder."""
    schedule: Advanced[Literal["warmup_cosine", "onecycle"]] = "warmup_cosine"
    """Learning rate over a stage: a linear rise over a fifth of the steps, then a cosine to 0; or torch's OneCycleLR,
    which varies the momentum too."""
    ema_decay: Advanced[ShareBelowOne] = 0.0
    """Decay of a moving average of the weights, which is what is evaluated and saved. Zero keeps the last weights."""
    weight_decay: Advanced[NonNegative] = 1e-4
    """Weight decay of AdamW, on matrices and convolution kernels only."""
    fine_tune: Advanced[bool] = False
    """Train the encoder in the second stage too, at lr. The mixtures no longer fit it then and are refused."""
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
    precision: Advanced[Literal["float32", "bfloat16", "float16"]] = "float32"
    """Precision of the encoder, by autocast; mixtures and losses are always float32. With float16 the loss is scaled
    so that small gradients do not vanish."""
    checkpoint_every: Running[Count] = 200
    """Steps between two checkpoints: the most that a killed run loses."""
    device: Running[str] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        check_fields(self)
        label_aware, n_components = self.contrastive.label_aware, self.head.n_components
        if label_aware != "none" and n_components is not None:
            raise InputError(f"label_aware with n_components {n_components}", "one component for every label")
        if self.contrastive.similarity == "label" and self.method == "probmcl" and n_components is not None:
            expected = "one component for every label, or another similarity, such as mixture"
            raise InputError(f"the similarity label with n_components {n_components}", expected)
        if self.mode == "two_stage" and not self.is_contrastive:
            raise InputError(f"mode two_stage with the method {self.method}", "probmcl or supcon: it has one stage")
        if self.fine_tune and not self.is_contrastive:
            raise InputError(f"fine_tune with the method {self.method}", "probmcl or supcon: the others have one stage")
        if self.confidence < 0.5:
            raise InputError(f"confidence must be a number in [0.5, 1], got {self.confidence}")
        if self.fine_tune and self.mode == "joint":
            raise InputError("fine_tune with the mode joint, which trains the encoder anyway", "two_stage with it")
        if self.mode == "two_stage" and self.method == "probmcl" and not self._trains_mixtures:
            raise InputError("contrastive_weight and likelihood_weight are 0 in two_stage", "one of them above 0")

    @property
    def is_contrastive(self) -> bool:
        """Whether the method has a contrastive term."""
        return self.method in ("probmcl", "supcon")

    @property
    def two_stages(self) -> bool:
        """Whether a contrastive stage comes first; for mode auto, without pre-trained weights."""
        return self.is_contrastive and (self.mode == "two_stage" or self.fine_tune)

    @property
    def has_mixtures(self) -> bool:
        """Whether a model trained with these settings has mixtures that fit its encoder."""
        return self.method == "probmcl" and not self.fine_tune and self._trains_mixtures

    @property
    def trains_weights(self) -> bool:
        """Whether the weights of the mixtures are trained: the comparison by label does not see them."""
        settings = self.contrastive
        whole = settings.contrastive_weight > 0 and settings.similarity != "label"
        return self.has_mixtures and (whole or settings.likelihood_weight > 0)

    @property
    def _trains_mixtures(self) -> bool:
        return self.contrastive.contrastive_weight > 0 or self.contrastive.likelihood_weight > 0

    def resolved(self, *, pretrained: bool) -> Config:
        """Return the settings with mode auto replaced by joint or two_stage."""
        if self.mode != "auto":
            return self
        two_stage = self.is_contrastive and (pretrained or self.fine_tune)
        return dataclasses.replace(self, mode="two_stage" if two_stage else "joint")

    def classification_loss(self) -> AsymmetricLoss:
        """Build the loss that trains the classifier."""
        return self.classification.loss(self.classification.classifier_loss if self.is_contrastive else self.method)

    def contrastive_loss(self) -> ProbMCLLoss | MultiLabelSupConLoss | None:
        """Build the loss that trains the head, if one does."""
        if self.method == "supcon":
            return self.contrastive.supcon_loss()
        return self.contrastive.probmcl_loss() if self.method == "probmcl" and self._trains_mixtures else None

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


def with_earlier_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """Add to settings in a file the values by which its release trained, for settings that it did not have."""
    two_stages = table.get("method") in ("probmcl", "supcon")
    return {"mode": "two_stage" if two_stages else "joint", **_EARLIER, **table}


_EARLIER: dict[str, Any] = {
    "likelihood_weight": 1.0,
    "normalise": False,
    "positives": "threshold",
    "learn_temperature": False,
    "unlabelled_ratio": 1.0,
    "consistency_weight": 0.0,
    "confidence": 0.95,
    "schedule": "warmup_cosine",
    "ema_decay": 0.0,
}


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
