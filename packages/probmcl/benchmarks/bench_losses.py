"""Processor time of the losses and scores with many labels, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/bench_losses.py    # half a minute

Labels are drawn with a long tail: five an image, label k with a density that falls as k^(-2/3). "step" is the loss and
its gradients. The comparison by label is measured beside the formula over all pairs of images and labels, which needs a
table of batch x batch x labels; it is run at a tenth of the labels and the figure is times ten.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from probmcl import MixtureParameters, MultiLabelSupConLoss, ProbabilisticContrastiveLoss, best_threshold, evaluate
from sextet_common.benchmarks import into_readme, machine, store
from torch import Tensor

HERE = Path(__file__).resolve().parent


def labels_of(batch: int, labels: int) -> Tensor:
    """Draw five labels an image."""
    random = torch.Generator().manual_seed(0)
    chosen = (labels * torch.rand(batch, 5, generator=random) ** 3).long()
    return torch.zeros(batch, labels, dtype=torch.uint8).scatter_(1, chosen, 1)


def by_label(*deviations: int, batch: int = 128, labels: int = 1000, dims: int = 128) -> tuple[Callable[[], Any], str]:
    """Return a step of the comparison by label; a component has one deviation or so many."""
    table, leaves = labels_of(batch, labels), mixtures_of(batch, labels, dims)
    leaves[2] = torch.zeros(batch, labels, *deviations, requires_grad=True)
    loss = ProbabilisticContrastiveLoss()
    return lambda: torch.autograd.grad(loss(MixtureParameters(*leaves), table), leaves[1:]), f"B {batch}, K {labels}"


def mixtures_of(batch: int, labels: int, dims: int) -> list[Tensor]:
    """Draw mixtures with one component for every label."""
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(batch, labels, generator=random).log_softmax(dim=1)
    means = torch.randn(batch, labels, dims, generator=random)
    return [tensor.requires_grad_() for tensor in (weights, means, torch.zeros(batch, labels))]


def all_labels(batch: int = 128, labels: int = 100, dims: int = 128) -> tuple[Callable[[], Any], str]:
    """Return a step of the same comparison from the similarities of all images for all labels."""
    table, leaves = labels_of(batch, labels), mixtures_of(batch, labels, dims)
    present = (table > 0).mT  # (labels, batch)

    def step() -> Any:
        _, means, log_std = leaves
        means = means.transpose(0, 1)
        squared = (means[:, :, None] - means[:, None]).square().sum(dim=3)
        s, t = log_std.mT[:, :, None], log_std.mT[:, None]
        total = (2 * s).exp() + (2 * t).exp()
        logits = ((np.log(2) + s + t - total.log()) / 2 - squared / (2 * dims * total)) / 0.05
        positive = present[:, None] & present[:, :, None] & ~torch.eye(batch, dtype=torch.bool)
        denominator = logits.masked_fill(torch.eye(batch, dtype=torch.bool), -1e30).logsumexp(dim=2)
        count = positive.sum(dim=2)
        each = denominator - (logits * positive).sum(dim=2) / count.clamp(min=1)
        return torch.autograd.grad((each * (count > 0)).sum() / (count > 0).sum(), leaves[1:])

    return step, f"B {batch}, K {labels}"


def supervised(positives: Any) -> tuple[Callable[[], Any], str]:
    """Return a step of the supervised loss."""
    rows = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    table, loss = labels_of(4096, 10_000), MultiLabelSupConLoss(positives=positives)
    return lambda: torch.autograd.grad(loss(rows, table), rows), "B 4096, 10,000 labels"


def scores(function: Callable[..., Any]) -> tuple[Callable[[], Any], str]:
    """Return the scores of 1000 labels of 1000 rows."""
    table = labels_of(1000, 1000).numpy()
    noise = np.random.default_rng(0).random(table.shape)
    probabilities = np.clip(0.3 * table + 0.5 * noise, 0, 1).astype(np.float32)
    return lambda: function(probabilities, table), "1000 rows, 1000 labels"


def seconds(job: Callable[[], Any], rounds: int) -> float:
    """Return the median processor time after a first call."""
    job()
    times = []
    for _ in range(rounds):
        began = time.process_time()
        job()
        times.append(time.process_time() - began)
    return statistics.median(times)


def main(rounds: int = 3) -> None:
    """Run the benchmark and put its table into the README.

    Parameters
    ----------
    rounds
        Times that a job is measured, after a first one.
    """
    torch.set_num_threads(1)
    jobs = {
        "ProbabilisticContrastiveLoss, by label, step": by_label(),
        "ProbabilisticContrastiveLoss, by label, diagonal covariances, step": by_label(128),
        "the same from all pairs of images and labels, a tenth of the labels, times ten": all_labels(),
        "MultiLabelSupConLoss, step": supervised("threshold"),
        "MultiLabelSupConLoss, positives per label, step": supervised("per_label"),
        "evaluate": scores(evaluate),
        "best_threshold": scores(best_threshold),
    }
    found = []
    for name, (job, size) in jobs.items():
        factor = 10 if name.endswith("times ten") else 1
        found.append({"job": name, "size": size, "seconds": factor * seconds(job, rounds)})
        print(found[-1], flush=True)
    store(HERE, "losses", {"cases": found})
    show(found)


def show(found: list[dict[str, Any]]) -> None:
    """Put the table into the README."""
    lines = ["| job | size | processor time, s |", "|---|---|---|"]
    lines += [f"| {case['job']} | {case['size']} | {case['seconds']:.2g} |" for case in found]
    command = "OMP_NUM_THREADS=1 python benchmarks/bench_losses.py"
    into_readme(HERE.parent / "README.md", "bench_losses", "\n".join(lines) + f"\n\n`{command}` on {machine()}.")


if __name__ == "__main__":
    tyro.cli(main)
