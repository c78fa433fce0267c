"""The loss of a stage: the classifier's loss, the contrastive term and the likelihood, as its settings weight them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from probmcl.losses.contrastive import MultiLabelSupConLoss
from probmcl.losses.likelihood import ProbMCLLoss
from probmcl.mixtures.head import MixtureDensityHead
from probmcl.training.config import Config
from probmcl.training.network import Network

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Objective:
    """The loss of a stage that trains the classifier, the head, or both. Terms of weight 0 are skipped."""

    def __init__(self, network: Network, config: Config, *, classify: bool = False, contrast: bool = False) -> None:
        self.network, self.config, self.classify = network, config, classify
        self.classification = config.classification_loss()
        self.weights: dict[str, float] = {}
        settings = config.contrastive
        if contrast and config.method == "probmcl":
            self.weights = {"likelihood": settings.likelihood_weight, "contrastive": settings.contrastive_weight}
        elif contrast:
            self.weights = {"contrastive": settings.contrastive_weight if classify else 1.0}
        if classify:
            self.weights |= {"classification": 1.0, "consistency": config.consistency_weight}
        self.weights = {name: weight for name, weight in self.weights.items() if weight > 0}
        self.contrasts = "contrastive" in self.weights

    @property
    def uses_unlabelled(self) -> bool:
        """Whether any term learns from unlabelled images."""
        return bool(self.weights.keys() - {"classification"})

    def __call__(
        self,
        views: Tensor,
        labels: Tensor,
        n_labelled: int,
        *,
        gather: Callable[[Tensor], Tensor] | None = None,
        measure: bool = False,
    ) -> dict[str, Tensor]:
        """Compute "loss" and its terms.

        Parameters
        ----------
        views
            First views, then second views, of this process's images.
        labels
            Of the views of all processes, -1 for unlabelled ones.
        n_labelled
            How many images are labelled; they come first.
        gather
            Returns the rows of all processes, with gradients.
        measure
            Add diagnostics: the norm of every weighted term's gradient with respect to the features, and how far the
            contrastive term tells images apart.
        """
        features = self._features(views)
        features = features if gather is None else gather(features)
        terms: dict[str, Tensor] = {}
        more: dict[str, Tensor] = {}
        if self.weights.keys() & {"likelihood", "contrastive"}:
            terms, more = self._head_terms(features, labels, n_labelled, measure)
        if self.classify:
            terms |= self._classifier_terms(features, labels, n_labelled)
        if features.requires_grad:  # a batch without positives has no graph
            terms = {name: x if x.requires_grad else x + 0.0 * features.sum() for name, x in terms.items()}
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        if measure and self.contrasts and features.requires_grad:
            for name, value in terms.items():
                gradient = torch.autograd.grad(self.weights[name] * value, features, retain_graph=True)[0]
                more[f"gradient_{name}"] = gradient.norm()
        return {"loss": total, **(terms if len(terms) > 1 or self.contrasts else {}), **more}

    def _features(self, views: Tensor) -> Tensor:
        dtype = _DTYPES.get(self.config.precision)
        with torch.autocast(views.device.type, dtype, enabled=dtype is not None):
            features: Tensor = self.network.encoder(views)
        return features.float()

    def _classifier_terms(self, features: Tensor, labels: Tensor, n_labelled: int) -> dict[str, Tensor]:
        logits = self.network.classifier(features)
        n = len(logits) // 2
        if n_labelled == n:
            return {"classification": self.classification(logits, labels)}
        (first, weak), (second, strong) = (half.tensor_split([n_labelled]) for half in logits.chunk(2))
        known = torch.cat([labels[:n_labelled], labels[n : n + n_labelled]])
        terms = {"classification": self.classification(torch.cat([first, second]), known)}
        if "consistency" in self.weights:
            terms["consistency"] = consistency(weak, strong, self.config.confidence)
        return terms

    def _head_terms(
        self, features: Tensor, labels: Tensor, n_labelled: int, measure: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        loss, head, n = self.network.loss, self.network.head, len(labels) // 2
        # An unlabelled image's other view is its positive.
        pairs = _other_views(n, n_labelled, features.device) if n_labelled < n else None
        assert head is not None
        if isinstance(head, MixtureDensityHead):
            assert isinstance(loss, ProbMCLLoss)
            points = head.project(features)
            mixtures, contrastive = head.mixture(points), loss.contrastive
            parts = loss.parts(mixtures, points.roll(n, dims=0), labels, pairs=pairs)
            every = {"likelihood": parts.likelihood, "contrastive": parts.contrastive}
            terms = {name: value for name, value in every.items() if name in self.weights}
            diagnosed = measure and self.contrasts
            more = contrastive.comparison(mixtures, labels, pairs=pairs).diagnostics() if diagnosed else {}
            return terms, more
        assert isinstance(loss, MultiLabelSupConLoss)
        rows = head(features)
        more = loss.comparison(rows, labels, pairs=pairs).diagnostics() if measure else {}
        return {"contrastive": loss(rows, labels, pairs=pairs)}, more


def consistency(weak: Tensor, strong: Tensor, confidence: float) -> Tensor:
    """Compute the binary cross-entropy of one view's logits against the confident predictions on another view.

    For each label, a prediction on the weak view above ``confidence`` is a 1, one below 1 - ``confidence`` a 0, and
    the others are left out. The loss is summed over labels and averaged over rows.

    References
    ----------
    FixMatch, arXiv 2001.07685, for each label of its own.

    Examples
    --------
    >>> consistency(torch.tensor([[9.0, 0.0, -9.0]]), torch.zeros(1, 3), 0.95)  # 2 log 2
    tensor(1.3863)
    """
    with torch.no_grad():
        probability = weak.sigmoid()
        sure = (probability > confidence) | (probability < 1 - confidence)
        target = (probability > 0.5).to(strong.dtype)
    loss = functional.binary_cross_entropy_with_logits(strong, target, reduction="none")
    return (loss * sure).sum() / len(loss)


def _other_views(n: int, n_labelled: int, device: torch.device) -> Tensor:
    """Return the pairs (2n, 2n) of the two views of every unlabelled image, as zeros and ones."""
    is_unlabelled = (torch.arange(2 * n, device=device) % n) >= n_labelled
    return torch.diag(is_unlabelled.float()).roll(n, dims=1)
