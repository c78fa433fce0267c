"""A memory of earlier embeddings, for contrastive losses that compare with more rows than a batch has."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped
from sextet_common.checks import Count, check
from sextet_common.errors import InputError
from torch import Tensor, nn


class MemoryQueue(nn.Module):
    """The last rows that were added, with their labels, as buffers of a module.

    It moves with ``.to(device)`` and is saved with a state dict. The oldest rows are replaced first, on the device and
    without making the host wait; `present` says which rows have been filled.

    Examples
    --------
    >>> from probmcl import MultiLabelSupConLoss
    >>> queue, loss = MemoryQueue(size=4, dim=3, n_labels=2), MultiLabelSupConLoss()
    >>> embeddings, labels = torch.eye(3), torch.tensor([[1, 0], [1, 0], [0, 1]])
    >>> queue.add(embeddings, labels)
    >>> value = loss(embeddings, labels, queue.embeddings, queue.labels, present=queue.present)
    >>> queue.present.tolist()
    [True, True, True, False]
    """

    embeddings: Float[Tensor, "size dim"]
    labels: Shaped[Tensor, "size labels"]
    present: Bool[Tensor, " size"]
    _next: Tensor

    def __init__(self, size: int, dim: int, n_labels: int) -> None:
        super().__init__()
        for name, value in {"size": size, "dim": dim, "n_labels": n_labels}.items():
            check(name, value, Count)
        self.register_buffer("embeddings", torch.zeros(size, dim))
        self.register_buffer("labels", torch.zeros(size, n_labels, dtype=torch.uint8))
        self.register_buffer("present", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("_next", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, embeddings: Float[Tensor, "batch dim"], labels: Shaped[Tensor, "batch labels"]) -> None:
        """Store detached rows in the place of the oldest; of more rows than the queue holds, the last ones stay."""
        expected = (self.embeddings.shape[1:], self.labels.shape[1:])
        if (embeddings.shape[1:], labels.shape[1:]) != expected or len(embeddings) != len(labels):
            shapes = f"embeddings and labels have shapes {tuple(embeddings.shape)} and {tuple(labels.shape)}"
            raise InputError(shapes, f"(batch, {expected[0][0]}) and (batch, {expected[1][0]})")
        size = len(self.present)
        embeddings, labels = embeddings[-size:], labels[-size:]
        places = (self._next + torch.arange(len(embeddings), device=self._next.device)).remainder(size)
        self.embeddings.index_copy_(0, places, embeddings.to(self.embeddings.dtype))
        self.labels.index_copy_(0, places, labels.to(self.labels.dtype))
        self.present.index_fill_(0, places, True)
        self._next.add_(len(embeddings)).remainder_(size)
