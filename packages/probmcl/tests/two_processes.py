"""One of two processes of test_distributed: ``python two_processes.py RANK FOLDER``."""

from __future__ import annotations

import sys

import torch
from probmcl import (
    MixtureParameters,
    MultiLabelSupConLoss,
    ProbabilisticContrastiveLoss,
    gather,
    gather_mixtures,
)
from torch import distributed

LABELS = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]])


def whole() -> tuple[torch.Tensor, MixtureParameters]:
    """Return the embeddings and mixtures of the global batch."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    return normal(6, 4), MixtureParameters(normal(6, 3), normal(6, 3, 2), 0.3 * normal(6, 3))


def total(rows: torch.Tensor, mixtures: MixtureParameters, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of the losses that every parameter of the mixtures has a part in."""
    by_mixture = ProbabilisticContrastiveLoss(similarity="mixture")(mixtures, labels)
    by_label = ProbabilisticContrastiveLoss(similarity="label")(mixtures, labels)
    return MultiLabelSupConLoss()(rows, labels) + by_mixture + by_label


def main(rank: int, folder: str) -> None:
    """Compute both losses over the global batch and the gradient that DistributedDataParallel would average."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows, mixtures = whole()
    part = slice(3 * rank, 3 * rank + 3)
    mine = rows[part].clone().requires_grad_()
    own = MixtureParameters(*(tensor[part].clone().requires_grad_() for tensor in mixtures))
    labels = gather(LABELS[part])
    value = total(gather(mine), gather_mixtures(own), labels)
    value.backward()
    gradients = [mine.grad / 2, *(tensor.grad / 2 for tensor in own)]  # the mean over processes of what they ask for
    torch.save([value.detach(), *gradients], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
