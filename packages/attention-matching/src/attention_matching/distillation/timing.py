"""How fast a step is on this machine, and which settings make it faster."""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sextet_common import device, progress
from sextet_common.data import ImageSet
from sextet_common.errors import InputError

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.shards import shard
from attention_matching.distillation.step import Step
from attention_matching.images.preprocess import Preprocessing
from attention_matching.networks.memory import explain_out_of_memory


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one contestant's rounds.

    Parameters
    ----------
    seconds
        One number per round, as measured.

    Examples
    --------
    >>> Timing((0.5, 0.25, 1.0)).median
    0.5
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median round's seconds."""
        return statistics.median(self.seconds)


def in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int = 5, warm_ups: int = 2) -> dict[str, Timing]:
    """Time contestants one after another, round after round, so that a busy machine is unfair to none.

    Parameters
    ----------
    contestants
        Name to work; the work waits for its device itself.
    rounds
        How many rounds are timed.
    warm_ups
        Rounds before those.

    Returns
    -------
    dict
        Name to :class:`Timing`.

    Examples
    --------
    >>> timings = in_turn({"nothing": lambda: None}, rounds=3)
    >>> len(timings["nothing"].seconds)
    3
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    with progress.bar("time", (rounds + warm_ups) * len(contestants)) as bar:
        for number in range(rounds + warm_ups):
            for name, work in contestants.items():
                began = time.perf_counter()
                work()
                if number >= warm_ups:
                    taken[name].append(time.perf_counter() - began)
                bar.advance()
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def variants(config: DistillConfig, where: torch.device) -> dict[str, DistillConfig]:
    """Name the settings that may make a step faster on a device, each changed alone and the usual ones together.

    Parameters
    ----------
    config
        The settings that they differ from.
    where
        The device.

    Returns
    -------
    dict
        What differs, to the whole configuration.

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
    if where.type == "cuda":
        changed["cuda_graph"] = {"cuda_graph": True}
        changed["bfloat16+cuda_graph"] = {"precision": "bfloat16", "cuda_graph": True}
    return {name: dataclasses.replace(config, **change) for name, change in changed.items()}


def time_steps(
    data: ImageSet,
    config: DistillConfig | None = None,
    *,
    only: tuple[str, ...] | None = None,
    rounds: int = 5,
    steps: int = 1,
    peers: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Timing]:
    """Time a distillation's step as asked for and with the settings that may make it faster.

    Parameters
    ----------
    data
        The images.
    config
        The settings.
    only
        Which of :func:`variants`; all of them where not given.
    rounds
        How many rounds are timed, at least 1.
    steps
        Steps in a round, at least 1: more where one is too short to be timed.
    peers
        Other contestants by name, each called once a round for as many steps.

    Returns
    -------
    dict
        Name to the seconds of one step.

    Raises
    ------
    InputError
        Where a name, a number or a setting cannot be used.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> timings = time_steps(load("digits"), DistillConfig(width=8), only=("as-asked",), rounds=2)
    >>> list(timings), len(timings["as-asked"].seconds)
    (['as-asked'], 2)
    """
    for name, value in (("rounds", rounds), ("steps", steps)):
        if value < 1:
            raise InputError(f"{name} is {value}", "a whole number >= 1")
    asked = (config or DistillConfig()).resolved(data)
    known = variants(asked, device.pick(asked.device))
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise InputError(f"variant {unknown[0]!r} is unknown", ", ".join(known))
    contestants: dict[str, Callable[[], object]] = dict(peers or {})
    preprocessing = Preprocessing.fit(data, asked.whitening or "none")
    with (
        shard(data.n_classes, asked.device) as part,
        explain_out_of_memory("images_at_once"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # small classes: said once a variant, and of no use here
        for name in only or known:
            contestants[name] = _steps(Step(known[name], data, part, preprocessing), steps)
        timings = in_turn(contestants, rounds)
    return {name: Timing(tuple(s / steps for s in timing.seconds)) for name, timing in timings.items()}


def _steps(step: Step, count: int) -> Callable[[], object]:
    """Make a round of some steps, which ends when the device has done them."""

    def work() -> object:
        losses = [step(number) for number in range(count)]
        return float(losses[-1].sum())  # waits for the device

    return work
