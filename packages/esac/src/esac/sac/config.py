"""Settings of soft actor-critic."""

from __future__ import annotations

import dataclasses

from sextet_common import checks
from sextet_common.checks import Count, Positive, Running, Share


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Settings of soft actor-critic; the defaults are those of the paper's public code."""

    gamma: Share = 0.99
    """Discount."""
    tau: Share = 0.005
    """Share of the critics in each update of the target critics."""
    lr: Positive = 3e-4
    """Adam's learning rate of policy, critics and temperature."""
    alpha: Positive = 0.2
    """Temperature; its initial value if it is tuned."""
    auto_alpha: bool = False
    """Tune the temperature so that the entropy is minus the number of actions."""
    batch_size: Count = 256
    """Transitions of an update."""
    capacity: Count = 1_000_000
    """Transitions in the replay buffer."""
    compile: Running[bool] = False
    """Compile the losses with torch.compile."""

    def __post_init__(self) -> None:
        checks.check_fields(self)
