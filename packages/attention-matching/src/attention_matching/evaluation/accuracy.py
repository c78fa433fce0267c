"""Test accuracy: of one network, and of several as a result with its spread."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from jaxtyping import Int
from sextet_common.checks import OpenShare, Share, check, check_fields
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.images.inputs import Inputs


def accuracy(
    network: nn.Module,
    inputs: Inputs,
    labels: Int[Tensor, " images"],
    batch: int = 256,
) -> float:
    """Measure the share of images whose largest logit is that of their label.

    The network is in evaluation mode meanwhile; ``inputs``, (images, channels, height, width), may be on any device.

    Examples
    --------
    >>> accuracy(nn.Flatten(), torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0]))
    0.6666666666666666
    """
    device = next((p.device for p in network.parameters()), inputs.device)
    mode = network.training
    network.eval()
    with torch.inference_mode():
        predicted = torch.cat([network(x.to(device)).argmax(dim=1) for x in inputs.split(batch)])
    network.train(mode)
    return (predicted == labels.to(device)).double().mean().item()


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies in [0, 1], one per fresh network, at a step that was not chosen on the test set.

    Examples
    --------
    >>> print(Evaluation((0.9, 0.8)))
    85.0 ± 7.1 %
    """

    accuracies: tuple[Share, ...]

    def __post_init__(self) -> None:
        if not self.accuracies:
            raise InputError("no accuracies", "one or more")
        check_fields(self)

    @property
    def mean(self) -> float:
        """Mean accuracy over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation over the networks; 0 for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the ends of a confidence interval of the mean over networks; they may leave [0, 1].

        Student's t interval, ``mean ± t std / sqrt(n)``, assumes that the networks' accuracies are drawn independently
        from a normal distribution. It does not cover the spread over distillations.

        Examples
        --------
        >>> low, high = Evaluation((0.90, 0.92, 0.94)).confidence_interval()
        >>> round(low, 3), round(high, 3)
        (0.87, 0.97)
        """
        from scipy.special import stdtrit  # Student's t quantile

        check("level", level, OpenShare)
        n = len(self.accuracies)
        if n < 2:
            raise InputError(f"a confidence interval of {n} network", "2 networks or more")
        reach = float(stdtrit(n - 1, (1 + level) / 2)) * self.std / n**0.5
        return self.mean - reach, self.mean + reach

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f} %"
