from __future__ import annotations

import os
from pathlib import Path

import torch
from probmcl import (
    MixtureParameters,
    MultiLabelSupConLoss,
    ProbabilisticContrastiveLoss,
    gather,
    gather_mixtures,
)
from torch import distributed, multiprocessing

LABELS = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]])


def whole() -> tuple[torch.Tensor, MixtureParameters]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    return normal(6, 4), MixtureParameters(normal(6, 2), normal(6, 2, 3), 0.3 * normal(6, 2))


def work(rank: int, folder: str) -> None:
    """Compute both losses over the global batch and the gradient that DistributedDataParallel would average."""
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
    store = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    rows, mixtures = whole()
    part = slice(3 * rank, 3 * rank + 3)
    mine = rows[part].clone().requires_grad_()
    own = MixtureParameters(*(tensor[part].clone().requires_grad_() for tensor in mixtures))
    labels = gather(LABELS[part])
    value = MultiLabelSupConLoss()(gather(mine), labels) + ProbabilisticContrastiveLoss()(gather_mixtures(own), labels)
    value.backward()
    gradients = [mine.grad / 2, *(tensor.grad / 2 for tensor in own)]  # the mean over processes of what they ask for
    torch.save([value.detach(), *gradients], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    rows, mixtures = whole()
    leaves = [rows.requires_grad_(), *(tensor.requires_grad_() for tensor in mixtures)]
    value = MultiLabelSupConLoss()(rows, LABELS) + ProbabilisticContrastiveLoss()(mixtures, LABELS)
    expected = torch.autograd.grad(value, leaves)
    for part in found:
        torch.testing.assert_close(part[0], value.detach())
    for number, gradient in enumerate(expected):
        torch.testing.assert_close(torch.cat([part[1 + number] for part in found]), gradient)


def test_one_process_keeps_its_rows() -> None:
    rows = torch.ones(2, 3)
    assert gather(rows) is rows
