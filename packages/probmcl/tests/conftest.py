from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from probmcl import MixtureParameters

Draw = Callable[..., MixtureParameters]


@pytest.fixture
def draw() -> Draw:
    """A function that makes random mixtures."""

    def make(
        seed: int,
        batch: int,
        components: int,
        dims: int,
        covariance: str = "isotropic",
        dtype: torch.dtype = torch.float64,
    ) -> MixtureParameters:
        random = torch.Generator().manual_seed(seed)
        shape = (batch, components) if covariance == "isotropic" else (batch, components, dims)
        return MixtureParameters(
            torch.randn(batch, components, generator=random, dtype=dtype).log_softmax(dim=1),
            1.5 * torch.randn(batch, components, dims, generator=random, dtype=dtype),
            0.4 * torch.randn(shape, generator=random, dtype=dtype),
        )

    return make
