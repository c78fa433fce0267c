"""The modules that are trained together, and inference over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from sextet_common.errors import InputError
from sextet_common.seeding import torch_seed
from torch import Tensor, nn

from probmcl.data.sets import Split
from probmcl.encoders import Encoder
from probmcl.losses.contrastive import MultiLabelSupConLoss
from probmcl.losses.likelihood import ProbMCLLoss
from probmcl.mixtures.head import MixtureDensityHead
from probmcl.mixtures.parameters import MixtureParameters
from probmcl.training.config import Config

BATCH_SIZE = 256  # rows in a batch of inference


class Network(nn.Module):
    """Encoder, head, and linear classifier."""

    head: MixtureDensityHead | nn.Sequential | None
    loss: ProbMCLLoss | MultiLabelSupConLoss | None
    """What trains the head; it may have a learned temperature."""

    def __init__(self, encoder: Encoder, n_labels: int, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        with torch_seed(config.seed, "head"):
            self.head = None
            if config.is_contrastive:  # supcon has the trunk of the mixture head: they differ in the mixture only
                head = config.head.build(encoder.out_features, n_labels)
                self.head = head if config.method == "probmcl" else head.trunk
        self.loss = config.contrastive_loss()
        with torch_seed(config.seed, "classifier"):
            self.classifier = nn.Linear(encoder.out_features, n_labels)

    def logits(self, inputs: Tensor) -> Tensor:
        """Map inputs to the logits of the labels."""
        logits: Tensor = self.classifier(self.encoder(inputs).float())
        return logits

    def mixtures(self, inputs: Tensor) -> MixtureParameters:
        """Map inputs to mixtures."""
        if not isinstance(self.head, MixtureDensityHead):
            raise InputError("this model has no mixture density head", "one trained with the method probmcl")
        mixtures: MixtureParameters = self.head(self.encoder(inputs).float())
        return mixtures


def infer(
    network: nn.Module,
    split: Split,
    device: torch.device,
    function: Callable[[Tensor], Tensor],
    rows: np.ndarray | None = None,
) -> Tensor:
    """Apply a function to rows of a split, in evaluation mode and without gradients; return float32 on the CPU.

    ``rows`` are by default all of them, in order.
    """
    network.eval()
    with torch.inference_mode():
        return torch.cat([function(batch).float().cpu() for batch in batches(split, device, rows)]).clone()


def batches(split: Split, device: torch.device, rows: np.ndarray | None = None) -> Iterator[Tensor]:
    """Iterate over the inputs of rows of a split, by default all of them in order."""
    rows = np.arange(len(split)) if rows is None else rows
    for first in range(0, len(rows), BATCH_SIZE):
        yield split.batch_on(rows[first : first + BATCH_SIZE], device)
