"""What a saved model holds besides its network: the Gaussians of its embeddings and the thresholds of its sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sextet_common import checkpoint
from torch import Tensor

from probmcl.reliability.conformal import ConformalSets
from probmcl.reliability.embeddings import LabelGaussians

_PREFIX = "reliability."
_GAUSSIANS = tuple(field.name for field in dataclasses.fields(LabelGaussians))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """What is fitted to the embeddings and probabilities of a trained model."""

    gaussians: LabelGaussians | None = None
    sets: ConformalSets | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to save, by names that no network has."""
        arrays = {} if self.gaussians is None else {name: getattr(self.gaussians, name) for name in _GAUSSIANS}
        if self.sets is not None:
            arrays["thresholds"] = self.sets.thresholds
        return {_PREFIX + name: array for name, array in arrays.items()}

    def meta(self) -> dict[str, Any]:
        """Return the description of the sets to save."""
        if self.sets is None:
            return {}
        return {"level": self.sets.level, "guarantee": self.sets.guarantee, "rows": self.sets.rows}

    @classmethod
    def read(cls, arrays: Mapping[str, Any], meta: Mapping[str, Any], n_labels: int) -> Self:
        """Rebuild from a saved model's arrays and description; files of earlier releases have neither."""
        own = {name.removeprefix(_PREFIX): np.asarray(a) for name, a in arrays.items() if name.startswith(_PREFIX)}
        gaussians = LabelGaussians(*(own[name] for name in _GAUSSIANS)) if _GAUSSIANS[0] in own else None
        sets = None
        if meta:
            if own["thresholds"].shape != (n_labels,):
                raise ValueError("as many thresholds as labels")
            sets = ConformalSets(own["thresholds"], float(meta["level"]), meta["guarantee"], int(meta["rows"]))
        return cls(gaussians, sets)

    def with_sets_of(self, path: Path, network: Mapping[str, Tensor]) -> Self:
        """Take over the sets of a saved model if it has the same network: a finished run keeps them."""
        if not path.exists():
            return self
        saved = checkpoint.load(path, "torch")
        theirs = self.of_network(saved.arrays)
        if network.keys() != theirs.keys() or not all(torch.equal(a.cpu(), theirs[n]) for n, a in network.items()):
            return self
        described = saved.meta.get("reliability", {})
        n_labels = len(saved.meta["label_names"])
        return dataclasses.replace(self, sets=self.read(saved.arrays, described, n_labels).sets)

    @staticmethod
    def of_network(arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return a saved model's other arrays: the network's."""
        return {name: array for name, array in arrays.items() if not name.startswith(_PREFIX)}
