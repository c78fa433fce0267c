"""How long a generation takes: measured rates of this machine, and a model that says it for any number of workers."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from sextet_common.errors import InputError

from esac import rollout
from esac.engine import ProcessEngine, SerialEngine
from esac.worker import Evaluator, Job, Task


@dataclass(frozen=True)
class Costs:
    """What a generation's time is made of, in seconds.

    Parameters
    ----------
    tasks
        Each episode's time in a worker.
    message
        Of the learner for a task: handing it out and hearing of it.
    broadcast
        Of the learner for a generation: writing the bases where workers read them.
    gradients
        Of soft actor-critic in a generation, beside the evaluation.
    """

    tasks: tuple[float, ...]
    message: float
    broadcast: float
    gradients: float = 0.0

    def __post_init__(self) -> None:
        if not self.tasks or min(*self.tasks, self.message, self.broadcast, self.gradients, 0.0) < 0:
            raise InputError(f"costs of {len(self.tasks)} tasks, some below 0", "at least one task, seconds >= 0")


def generation_seconds(costs: Costs, workers: int, cores: int | None = None) -> float:
    """Predict a generation's time by simulation of its tasks.

    The learner hands out tasks one after another, to whoever is free first; it hears of each one too, and neither goes
    on beside another message. Soft actor-critic runs beside the evaluation, and what is later ends the generation.

    Parameters
    ----------
    costs
        What is measured on one machine.
    workers
        How many there are.
    cores
        How many of them can run at once; as many as there are workers, where not given: one machine more each time.

    Returns
    -------
    float
        Seconds.

    Examples
    --------
    >>> costs = Costs(tasks=(1.0,) * 20, message=0.01, broadcast=0.05)
    >>> round(generation_seconds(costs, 1), 2), round(generation_seconds(costs, 10), 2)
    (20.25, 2.16)
    """
    if workers < 1 or (cores is not None and cores < 1):
        raise InputError(f"{workers} workers on {cores} cores", "whole numbers >= 1")
    slower = max(1.0, min(workers, len(costs.tasks)) / cores) if cores else 1.0
    learner = costs.broadcast
    half = costs.message / 2
    running: list[float] = []
    for seconds in costs.tasks:
        if len(running) == workers:  # the first that ends is heard of, and given the next task
            learner = max(learner, heapq.heappop(running)) + half
        learner += half
        heapq.heappush(running, learner + seconds * slower)
    while running:
        learner = max(learner, heapq.heappop(running)) + half
    return max(learner, costs.gradients)


def measured_costs(job: Job, pairs: int = 10, repeats: int = 3, gradients: float = 0.0) -> Costs:
    """Measure what a generation's time is made of, with one worker process.

    Parameters
    ----------
    job
        The environment and policies.
    pairs
        Members of a generation.
    repeats
        Generations; each task's median counts.
    gradients
        Seconds of soft actor-critic in a generation, where there is any.

    Returns
    -------
    Costs
        The costs.
    """
    evaluator = Evaluator(job)
    bases = np.stack([evaluator.policy.shape.initial(np.random.default_rng(m)) for m in range(pairs)])
    tasks = [Task(m, 0, m, sign, 0.01) for m in range(pairs) for sign in (1, -1)]
    times = []
    for _ in range(repeats):
        row = []
        for task in tasks:
            began = time.perf_counter()
            evaluator(task, bases)
            row.append(time.perf_counter() - began)
        times.append(row)
    each = tuple(statistics.median(column) for column in zip(*times, strict=True))
    whole, broadcasts = [], []
    with ProcessEngine(job, 1) as pool:
        for number in range(repeats + 1):
            began = time.perf_counter()
            pool.start(bases, tasks[:1])
            broadcasts.append(time.perf_counter() - began)
            pool.finish()
            began = time.perf_counter()
            pool.start(bases, tasks)
            pool.finish()
            if number:  # the first one waits for the worker's start
                whole.append(time.perf_counter() - began)
    broadcast = statistics.median(broadcasts[1:])
    rest = statistics.median(whole) - sum(each) - broadcast
    return Costs(each, max(0.0, rest / len(tasks)), broadcast, gradients)


def generation_measured(job: Job, workers: int, pairs: int = 10, repeats: int = 3) -> float:
    """Measure a generation's median time with so many worker processes (0: this process)."""
    evaluator = Evaluator(job)
    bases = np.stack([evaluator.policy.shape.initial(np.random.default_rng(m)) for m in range(pairs)])
    tasks = [Task(m, 0, m, sign, 0.01) for m in range(pairs) for sign in (1, -1)]
    found = []
    with ProcessEngine(job, workers) if workers else SerialEngine(job) as engine:
        for number in range(repeats + 1):
            began = time.perf_counter()
            engine.start(bases, tasks)
            engine.finish()
            if number:
                found.append(time.perf_counter() - began)
    return statistics.median(found)


@dataclass(frozen=True)
class Rates:
    """Environment steps a second of one process.

    Parameters
    ----------
    bare
        With random actions.
    numpy
        With this package's policy.
    torch
        With the same policy as a torch module, one observation at a time.
    peers
        With others' policies, by name.
    """

    bare: float
    numpy: float
    torch: float
    peers: dict[str, float] = field(default_factory=dict)


def rates(
    job: Job,
    steps: int = 5000,
    repeats: int = 5,
    peers: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
) -> Rates:
    """Measure environment steps a second, in turn; processor time counts, so that other jobs disturb less.

    Parameters
    ----------
    job
        The environment and policies.
    steps
        Steps of each turn.
    repeats
        Turns; medians count.
    peers
        Others' policies, from an observation to an action, that take turns too.

    Returns
    -------
    Rates
        The rates.
    """
    import torch

    from esac.sac import Actor

    env = rollout.make(job.env, job.options)
    policy = rollout.numpy_policy(env, job.hidden)
    policy.vector[:] = policy.shape.initial(np.random.default_rng(job.seed))
    module = Actor(policy.shape, policy.low, policy.high)
    module.take(policy.vector)
    random = np.random.default_rng(job.seed)
    drawn = random.uniform(policy.low, policy.high, (steps, len(policy.low))).astype(np.float32)

    def with_torch(observation: np.ndarray, number: int) -> np.ndarray:
        with torch.no_grad():
            action: np.ndarray = module(torch.as_tensor(observation, dtype=torch.float32)[None])[0].numpy()
        return action

    ways: dict[str, Any] = {
        "bare": lambda observation, number: drawn[number],
        "numpy": lambda observation, number: policy(observation),
        "torch": with_torch,
    }
    for name, peer in (peers or {}).items():
        ways[name] = lambda observation, number, peer=peer: peer(observation)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, act in ways.items():
            observation, _ = env.reset(seed=job.seed)
            began = time.process_time()
            for number in range(steps):
                observation, _, terminated, truncated, _ = env.step(act(observation, number))
                if terminated or truncated:
                    observation, _ = env.reset()
            found[name].append(steps / (time.process_time() - began))
    env.close()
    medians = {name: statistics.median(values) for name, values in found.items()}
    return Rates(medians.pop("bare"), medians.pop("numpy"), medians.pop("torch"), medians)


def scaling_table(
    job: Job, measured: Sequence[int] = (1, 2, 4), cores: int | None = None, pairs: int = 10, repeats: int = 3
) -> dict[str, Any]:
    """Predict a generation's time for 1 to 1024 workers, and measure it for a few.

    Parameters
    ----------
    job
        The environment and policies.
    measured
        Numbers of workers that are measured here.
    cores
        Of this machine, for the predictions that are held against measurements; elsewhere each worker has its own.
    pairs, repeats
        Members of a generation, and generations.

    Returns
    -------
    dict
        ``workers``, ``predicted`` (seconds), ``here`` (predicted for this machine) and ``measured`` by workers,
        ``costs``: what `plotting.scaling` draws.
    """
    costs = measured_costs(job, pairs, repeats)
    workers = [2**k for k in range(11)]
    return {
        "workers": workers,
        "predicted": [generation_seconds(costs, n) for n in workers],
        "here": {str(n): generation_seconds(costs, n, cores) for n in measured},
        "measured": {str(n): generation_measured(job, n, pairs, repeats) for n in measured},
        "costs": asdict(costs),
    }
