"""Time a distillation step on this machine, under the settings that may make it faster."""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sextet_common import data as image_data, device as devices, progress
from sextet_common.checks import Count, check
from sextet_common.errors import InputError

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.shards import join_shards
from attention_matching.distillation.step import Step
from attention_matching.images.preprocess import Preprocessing
from attention_matching.networks.memory import explain_out_of_memory


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each round of one contestant."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.seconds)


def in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int = 5, warm_ups: int = 2) -> dict[str, Timing]:
    """Time functions that wait for their device, in turn in every round, so that other load affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with progress.bar("time", (rounds + warm_ups) * len(contestants)) as bar:
        for number in range(rounds + warm_ups):
            for name, work in contestants.items():
                began = time.perf_counter()
                work()
                if number >= warm_ups:
                    seconds[name].append(time.perf_counter() - began)
                bar.advance()
    return {name: Timing(tuple(each)) for name, each in seconds.items()}


def variants(config: DistillConfig, device: torch.device) -> dict[str, DistillConfig]:
    """Return the settings that may make a step faster on a device: each changed alone, and the usual ones together.

    Examples
    --------
    >>> list(variants(DistillConfig(), torch.device("cpu")))
    ['as-asked', 'channels_last', 'bfloat16', 'compile']
    """
    changed: dict[str, dict[str, Any]] = {
        "as-asked": {},
        "channels_last": {"channels_last": True},
        "bfloat16": {"precision": "bfloat16"},
        "compile": {"compile": True},
    }
    if device.type == "cuda":
        changed["cuda_graph"] = {"cuda_graph": True}
        changed["bfloat16+cuda_graph"] = {"precision": "bfloat16", "cuda_graph": True}
    return {name: dataclasses.replace(config, **change) for name, change in changed.items()}


def time_steps(
    data: image_data.Source,
    config: DistillConfig | None = None,
    *,
    only: tuple[str, ...] | None = None,
    rounds: int = 5,
    steps: int = 1,
    peers: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Timing]:
    """Time a distillation step as configured and with the settings that may make it faster; return one step's seconds.

    ``only`` names the :func:`variants` to time, by default all. A round takes ``steps`` steps, more than one where a
    step is too short to be timed. ``peers`` are other contestants by name, each called once per round for as many
    steps.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> timings = time_steps(load("digits"), DistillConfig(width=8), only=("as-asked",), rounds=2)
    >>> list(timings), len(timings["as-asked"].seconds)
    (['as-asked'], 2)
    """
    check("rounds", rounds, Count)
    check("steps", steps, Count)
    data = image_data.load(data)
    resolved = (config or DistillConfig()).resolved(data)
    known = variants(resolved, devices.pick(resolved.device))
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise InputError(f"only must name variants ({', '.join(known)}), got {unknown[0]!r}")
    contestants: dict[str, Callable[[], object]] = dict(peers or {})
    preprocessing = Preprocessing.fit(data, resolved.whitening or "none")
    with (
        join_shards(data.n_classes, resolved.device) as shard,
        explain_out_of_memory("images_at_once"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # small classes: repeated for every variant, of no use here
        for name in only or known:
            contestants[name] = _round(Step([known[name]], data, shard, preprocessing), steps)
        timings = in_turn(contestants, rounds)
    return {name: Timing(tuple(s / steps for s in timing.seconds)) for name, timing in timings.items()}


def _round(step: Step, count: int) -> Callable[[], object]:
    """Return a function that takes some steps and waits for the device."""

    def work() -> object:
        losses = [step(number) for number in range(count)]
        return float(losses[-1].sum())

    return work
