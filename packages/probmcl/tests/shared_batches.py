"""A training that test_processes runs alone and with two processes: ``[torchrun] shared_batches.py OUT [RUN]``."""

from __future__ import annotations

import os
import sys

import torch
from probmcl import Augmentation, Config, ContrastiveConfig, HeadConfig, ProbMCL, model as model_module
from probmcl.scenes import compose, digits
from probmcl.training.stages import Training
from torch import nn

STOP = int(os.environ.get("STOP_AT", "-1"))  # a step at which all processes die


class StochasticDepth(nn.Module):
    """Drop whole rows, as timm and torchvision do."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Keep nine rows of ten in training."""
        return rows * rows.new_empty((len(rows), 1, 1, 1)).bernoulli_(0.9) if self.training else rows


class Stopped(Training):
    """A training that ends like a killed process."""

    def step(self, number: int) -> dict[str, torch.Tensor]:
        """Take a step, or die."""
        if number == STOP:
            os._exit(3)
        return super().step(number)


def encoder() -> nn.Module:
    """Return layers that mix the rows of a batch or draw for them. A bias before batch norm would do nothing."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), StochasticDepth(),
        nn.Flatten(), nn.Linear(900, 12, bias=False), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.2),
    )  # fmt: skip


def main(out: str, run: str | None) -> None:
    """Train in three ways and save the weights of every process, one file a rank."""
    torch.set_num_threads(1)
    model_module.Training = Stopped
    torch.manual_seed(0)
    data = compose(digits(), sizes=(48, 16, 8)).with_labelled(24)
    weights = {}
    for name, options in {
        "joint": {"mode": "joint", "consistency_weight": 0.5, "confidence": 0.5, "ema_decay": 0.9},
        "two_stage": {"mode": "two_stage", "fine_tune": True, "schedule": "onecycle"},
        "supcon": {"method": "supcon", "mode": "joint"},
    }.items():
        config = Config(
            epochs=2, classifier_epochs=2, batch_size=8, lr=1e-3, device="cpu", checkpoint_every=5,
            head=HeadConfig(8, hidden=(16,)), augmentation=Augmentation(cutout=0.2, flip=True, randaugment=1),
            contrastive=ContrastiveConfig(likelihood_weight=0.5), **options,
        )  # fmt: skip
        torch.manual_seed(1)
        model = ProbMCL(encoder(), 10, config).fit(data, None if run is None else f"{run}/{name}")
        weights |= {f"{name}.{key}": tensor for key, tensor in model._fitted().state_dict().items()}
    torch.save(weights, f"{out}-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
