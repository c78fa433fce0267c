"""Sums over the labels that two rows share: products of tables, without their zeros where these are most of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORK = 1e9  # multiplications of a dense product below which zeros cost nothing that matters
_GAIN = 30  # dense multiplications in the time of one pair of entries
_MOST_PAIRS = 2**25
_MOST_SHARE = 0.05  # of entries that are not 0


class SharedLabels(NamedTuple):
    """All pairs of an entry of one table with an entry of another of the same label."""

    left: Int[Tensor, " pairs"]
    right: Int[Tensor, " pairs"]
    """Places of the entries in the tables, flattened."""
    n_labels: int
    shape: tuple[int, int]

    def table(self, values: Float[Tensor, " pairs"]) -> Float[Tensor, "rows others"]:
        """Sum one value a pair into the table of all rows with all others."""
        place = (self.left // self.n_labels) * self.shape[1] + self.right // self.n_labels
        return values.new_zeros(self.shape[0] * self.shape[1]).index_add_(0, place, values).view(self.shape)


def readable(tensor: Tensor) -> bool:
    """Return whether the host can read values without waiting."""
    return tensor.device.type == "cpu"


def shared_labels(left: Float[Tensor, "rows labels"], right: Float[Tensor, "others labels"]) -> SharedLabels | None:
    """List the pairs of entries that are not 0; None where a dense product is faster, or values must not be read."""
    work = left.shape[0] * right.shape[0] * left.shape[1]
    if work < _WORK or not readable(left):
        return None
    if any(int(torch.count_nonzero(table)) > _MOST_SHARE * table.numel() for table in {left, right}):
        return None
    row, label = _entries(left)
    other_row, other_label = (row, label) if right is left else _entries(right)
    n_labels = left.shape[1]
    count = torch.bincount(other_label, minlength=n_labels)
    runs = count[label]  # each entry of the left table meets a run of entries of the right one
    total = int(runs.sum())
    if total > min(work // _GAIN, _MOST_PAIRS):
        return None
    first = (count.cumsum(dim=0) - count)[label] - (runs.cumsum(dim=0) - runs)
    entry = torch.arange(total, device=left.device) + first.repeat_interleave(runs)
    mine, others = row * n_labels + label, other_row * n_labels + other_label
    return SharedLabels(mine.repeat_interleave(runs), others[entry], n_labels, (left.shape[0], right.shape[0]))


def _entries(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and label of all entries that are not 0, sorted by label."""
    row, label = table.nonzero(as_tuple=True)
    order = label.argsort()
    return row[order], label[order]


def product(left: Float[Tensor, "rows labels"], right: Float[Tensor, "others labels"]) -> Float[Tensor, "rows others"]:
    """Compute left @ right.T."""
    shared = shared_labels(left, right)
    if shared is None:
        return left @ right.mT
    return shared.table(left.reshape(-1)[shared.left] * right.reshape(-1)[shared.right])


def sums_of_known(
    values: Float[Tensor, "rows labels"], unknown: Float[Tensor, "others labels"]
) -> Float[Tensor, "rows others"]:
    """Compute values @ (1 - unknown).T: the sum of each row's values over the labels that the other row knows."""
    shared = shared_labels(values, unknown)
    if shared is None:
        return values @ (1 - unknown).mT
    return (values.sum(dim=1)[:, None] - shared.table(values.reshape(-1)[shared.left])).clamp_(min=0.0)


def per_label_shares(
    left: Float[Tensor, "rows labels"],
    right: Float[Tensor, "others labels"],
    compared: Float[Tensor, "rows others"],
) -> Float[Tensor, "rows others"]:
    """Compute ``sum_k left_ik right_jk / n_ik``, with n_ik the sum of right_jk over what row i is compared with."""
    shared = shared_labels(left, right)
    if shared is None:
        count = compared @ right
        return (left / count.clamp(min=1e-30) * (count > 0)) @ right.mT
    other = right.reshape(-1)[shared.right]
    met = compared[shared.left // shared.n_labels, shared.right // shared.n_labels] * other
    count = left.new_zeros(left.numel()).index_add_(0, shared.left, met)[shared.left]
    share = left.reshape(-1)[shared.left] * other / count.clamp(min=1e-30) * (count > 0)
    return shared.table(share)
