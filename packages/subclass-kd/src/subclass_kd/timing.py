"""Time of a network's forward pass, by torch.utils.benchmark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sextet_common.checks import Count, Positive, check
from sextet_common.networks import device_of, evaluating
from torch import nn

_BLOCKS = 30


@dataclass(frozen=True)
class Latency:
    """Seconds of a forward pass: the median of 30 blocks of passes, and the quartiles, between which half of them lie.

    ``str`` gives milliseconds.
    """

    median: float
    low: float
    high: float
    batch: int
    threads: int
    device: str

    def __str__(self) -> str:
        low, median, high = (f"{1e3 * value:.3g}" for value in (self.low, self.median, self.high))
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        threads = "" if self.device != "cpu" else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{median} ms [{low}, {high}] for {images} on {self.device}{threads}"


def latency(
    network: nn.Module, input_shape: tuple[int, ...], *, batch: int = 1, threads: int = 1, seconds: float = 0.2
) -> Latency:
    """Time forward passes of a batch on the network's device for about ``seconds``, after a warm-up.

    Examples
    --------
    >>> timed = latency(nn.Linear(4, 2), (4,), seconds=0.01)
    >>> 0 < timed.low <= timed.median <= timed.high
    True
    """
    from torch.utils import benchmark  # slow to import

    check("batch", batch, Count)
    check("threads", threads, Count)
    check("seconds", seconds, Positive)
    device = device_of(network)
    names = {"network": network, "images": torch.zeros(batch, *input_shape, device=device)}
    with evaluating(network), torch.inference_mode():
        timer = benchmark.Timer("network(images)", globals=names, num_threads=threads)
        passes = max(1, round(seconds / _BLOCKS / timer.timeit(1).mean))
        times = [timer.timeit(passes).mean for _ in range(_BLOCKS)]
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, low, high, batch, threads, device.type)
