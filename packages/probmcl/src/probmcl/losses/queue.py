"""A memory of earlier rows, for contrastive losses that compare with more rows than a batch has."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from sextet_common.checks import Count, check
from sextet_common.errors import InputError
from torch import Tensor, nn

from probmcl.mixtures.parameters import Covariance, MixtureParameters


class MemoryQueue(nn.Module):
    """The last rows that were added, embeddings or mixtures, with their labels, as buffers of a module.

    It moves with ``.to(device)`` and is saved with a state dict. The oldest rows are replaced first, on the device and
    without making the host wait; `present` says which rows have been filled. With ``n_components`` it holds mixtures of
    this number of components, as `mixtures`; labels may be soft and unknown.

    Examples
    --------
    >>> from probmcl import MultiLabelSupConLoss
    >>> queue, loss = MemoryQueue(size=4, dim=3, n_labels=2), MultiLabelSupConLoss()
    >>> embeddings, labels = torch.eye(3), torch.tensor([[1, 0], [1, 0], [0, 1]])
    >>> places = queue.add(embeddings, labels)
    >>> stored = {"ref_emb": queue.embeddings, "ref_labels": queue.labels, "present": queue.present}
    >>> value = loss(embeddings, labels, **stored, self_index=places)
    >>> queue.present.tolist()
    [True, True, True, False]
    """

    embeddings: Float[Tensor, "size dim"]
    labels: Float[Tensor, "size labels"]
    present: Bool[Tensor, " size"]
    _next: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        n_labels: int,
        *,
        n_components: int | None = None,
        covariance: Covariance = "isotropic",
    ) -> None:
        super().__init__()
        for name, value in {"size": size, "dim": dim, "n_labels": n_labels}.items():
            check(name, value, Count)
        check("n_components", n_components, Count | None)
        check("covariance", covariance, Covariance)
        if n_components is None:
            shapes: dict[str, tuple[int, ...]] = {"embeddings": (size, dim)}
        else:
            wide = (size, n_components, dim)
            shapes = {"log_weights": wide[:2], "means": wide, "log_std": wide[: 2 if covariance == "isotropic" else 3]}
        self._names = tuple(shapes)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("labels", torch.zeros(size, n_labels))
        self.register_buffer("present", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("_next", torch.zeros((), dtype=torch.int64))

    @property
    def mixtures(self) -> MixtureParameters:
        """The mixtures of a queue with ``n_components``."""
        if len(self._names) == 1:
            raise InputError("the queue holds embeddings", "MemoryQueue(..., n_components=...) for mixtures")
        return MixtureParameters(*self._stored())

    def _stored(self) -> list[Tensor]:
        return [self.get_buffer(name) for name in self._names]

    @torch.no_grad()
    def add(
        self, rows: Float[Tensor, "batch dim"] | MixtureParameters, labels: Shaped[Tensor, "batch labels"]
    ) -> Int[Tensor, " batch"]:
        """Store detached rows in the place of the oldest, and return their places.

        Of more rows than the queue holds, the last ones stay; the place of the others is -1.
        """
        tensors = [rows] if isinstance(rows, Tensor) else list(rows)
        stored = [*self._stored(), self.labels]
        given = [tuple(tensor.shape) for tensor in (*tensors, labels)]
        if len(given) != len(stored) or any(
            shape != (len(labels), *table.shape[1:]) for shape, table in zip(given, stored, strict=True)
        ):
            expected = " and ".join(str(("batch", *table.shape[1:])).replace("'", "") for table in stored)
            raise InputError(f"rows and labels have shapes {', '.join(map(str, given))}", expected)
        size, batch = len(self.present), len(labels)
        places = (self._next + torch.arange(-min(size, batch), 0, device=self._next.device) + batch).remainder(size)
        for table, tensor in zip(stored, (*tensors, labels), strict=True):
            table.index_copy_(0, places, tensor[-size:].to(table.dtype))
        self.present.index_fill_(0, places, True)
        self._next.add_(batch).remainder_(size)
        return torch.cat([places.new_full((max(0, batch - size),), -1), places])
