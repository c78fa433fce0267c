"""The time of a generation: measured on this machine, and modelled for any number of workers."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from sextet_common import checks
from sextet_common.checks import Count
from sextet_common.errors import InputError

from esac.engines.process import ProcessEngine
from esac.engines.serial import SerialEngine
from esac.play import environment, rollout
from esac.play.task import Evaluator, Job, Task


@dataclass(frozen=True)
class Costs:
    """Parts of the time of a generation, in seconds.

    ``tasks`` are the episodes in a worker, ``message`` is the learner's time per task (sending it and receiving its
    result), ``broadcast`` its time per generation (writing the bases to shared memory), and ``gradients`` the time of
    soft actor-critic, which runs beside the evaluation.
    """

    tasks: tuple[float, ...]
    message: float
    broadcast: float
    gradients: float = 0.0

    def __post_init__(self) -> None:
        if not self.tasks or min(*self.tasks, self.message, self.broadcast, self.gradients, 0.0) < 0:
            raise InputError(f"costs of {len(self.tasks)} tasks, some negative", "at least one task, seconds >= 0")


def generation_seconds(costs: Costs, workers: int, cores: int | None = None) -> float:
    """Predict the time of a generation by simulating its tasks.

    The learner sends tasks one after another to the first free worker and receives results one by one. Soft
    actor-critic runs beside the evaluation; the later of the two ends the generation. `cores` limits how many workers
    run at once; by default each has its own core.

    Examples
    --------
    >>> costs = Costs(tasks=(1.0,) * 20, message=0.01, broadcast=0.05)
    >>> round(generation_seconds(costs, 1), 2), round(generation_seconds(costs, 10), 2)
    (20.25, 2.16)
    """
    checks.check("workers", workers, Count)
    checks.check("cores", cores, Count | None)
    slowdown = max(1.0, min(workers, len(costs.tasks)) / cores) if cores else 1.0
    learner = costs.broadcast
    half = costs.message / 2
    running: list[float] = []
    for seconds in costs.tasks:
        if len(running) == workers:  # receive the first result and reuse its worker
            learner = max(learner, heapq.heappop(running)) + half
        learner += half
        heapq.heappush(running, learner + seconds * slowdown)
    while running:
        learner = max(learner, heapq.heappop(running)) + half
    return max(learner, costs.gradients)


def measured_costs(job: Job, pairs: int = 10, repeats: int = 3, gradients: float = 0.0) -> Costs:
    """Measure the costs of a generation of `pairs` members with one worker process; medians of `repeats`.

    `gradients` is the time of soft actor-critic in a generation, if there is any.
    """
    evaluator, bases, tasks = _workload(job, pairs)
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
            if number:  # the first one includes the start of the worker
                whole.append(time.perf_counter() - began)
    broadcast = statistics.median(broadcasts[1:])
    rest = statistics.median(whole) - sum(each) - broadcast
    return Costs(each, max(0.0, rest / len(tasks)), broadcast, gradients)


def generation_measured(job: Job, workers: int, pairs: int = 10, repeats: int = 3) -> float:
    """Measure the median time of a generation with worker processes (0: in this process)."""
    _, bases, tasks = _workload(job, pairs)
    seconds = []
    with ProcessEngine(job, workers) if workers else SerialEngine(job) as engine:
        for number in range(repeats + 1):
            began = time.perf_counter()
            engine.start(bases, tasks)
            engine.finish()
            if number:
                seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _workload(job: Job, pairs: int) -> tuple[Evaluator, np.ndarray, list[Task]]:
    evaluator = Evaluator(job)
    bases = np.stack([evaluator.policy.shape.initial(np.random.default_rng(m)) for m in range(pairs)])
    return evaluator, bases, [Task(m, 0, m, sign, 0.01) for m in range(pairs) for sign in (1, -1)]


@dataclass(frozen=True)
class Rates:
    """Environment steps per second of one process.

    ``bare`` is with random actions, ``numpy`` with this package's policy, ``torch`` with the same policy as a torch
    module, one observation at a time, and ``peers`` with other policies by name.
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
    """Measure environment steps per second of processor time, so that other processes disturb less.

    The policies take turns of `steps` steps; medians of `repeats` turns. `peers` are other policies, from an
    observation to an action.
    """
    env = environment.make(job.env, job.options)
    ways = _ways_to_act(env, job, steps, peers or {})
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, act in ways.items():
            observation, _ = env.reset(seed=job.seed)
            began = time.process_time()
            for number in range(steps):
                observation, _, terminated, truncated, _ = env.step(act(observation, number))
                if terminated or truncated:
                    observation, _ = env.reset()
            measured[name].append(steps / (time.process_time() - began))
    env.close()
    medians = {name: statistics.median(values) for name, values in measured.items()}
    return Rates(medians.pop("bare"), medians.pop("numpy"), medians.pop("torch"), medians)


def _ways_to_act(
    env: Any, job: Job, steps: int, peers: Mapping[str, Callable[[np.ndarray], np.ndarray]]
) -> dict[str, Callable[[np.ndarray, int], np.ndarray]]:
    """Return functions from an observation and the number of a step to an action."""
    import torch

    from esac.sac.actor import Actor

    policy = rollout.numpy_policy(env, job.hidden)
    policy.vector[:] = policy.shape.initial(np.random.default_rng(job.seed))
    module = Actor(policy.shape, policy.low, policy.high)
    module.load_vector(policy.vector)
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
    for name, peer in peers.items():
        ways[name] = lambda observation, number, peer=peer: peer(observation)
    return ways


def scaling_table(
    job: Job, measured: Sequence[int] = (1, 2, 4), cores: int | None = None, pairs: int = 10, repeats: int = 3
) -> dict[str, Any]:
    """Predict the time of a generation for 1 to 1024 workers, and measure it for a few.

    Returns what `esac.plotting.scaling` draws: ``workers`` and ``predicted`` (seconds, a core each), ``measured`` and
    ``here`` (predicted for this machine's `cores`) by number of workers, and ``costs``.
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
