"""What the Ray engine is held to, on a cluster of two one-CPU nodes: a program, since Ray may end its process.

Prints what it found as one line of JSON; exit code 77 where the cluster did not start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
from esac.engines.ray import RayEngine
from esac.engines.serial import SerialEngine
from esac.play.task import Evaluator, Job, Task

TASKS = [Task(m % 2, 1, m, sign, 0.1, keep=m == 0) for m in range(4) for sign in (1, -1)]


def job(steps: int) -> Job:
    return Job("Pendulum-v1", {"max_episode_steps": steps}, (8, 8))


def bases() -> np.ndarray:
    shape = Evaluator(job(5)).policy.shape
    return np.stack([shape.initial(np.random.default_rng(k)) for k in range(2)])


def same(found: list[Any], of: Job) -> bool:
    with SerialEngine(of) as serial:
        serial.start(bases(), TASKS)
        wanted = serial.finish()
    return all(
        (a.total, a.length, a.failed) == (b.total, b.length, b.failed)
        and (a.transitions is None) == (b.transitions is None)
        and (a.transitions is None or np.array_equal(a.transitions, b.transitions))
        for a, b in zip(found, wanted, strict=True)
    )


def two_machines(address: str) -> dict[str, bool]:
    import ray

    bits, both = True, False
    with RayEngine(job(20), 2, address=address) as engine:
        for _ in range(40):
            engine.start(bases(), TASKS)
            bits &= same(engine.finish(), job(20))
            if both := all(worker.ready for worker in engine._workers):
                break
            time.sleep(0.5)
    return {"bits": bits, "both": both, "disconnected": not ray.is_initialized()}


def killed(address: str) -> dict[str, bool]:
    import ray

    of = job(3000)
    with RayEngine(of, 1, address=address) as engine:
        engine.start(bases(), TASKS[:1])
        engine.finish()
        engine.start(bases(), TASKS)
        time.sleep(0.1)
        victim = engine._workers[0].actor
        ray.kill(victim)
        found = engine.finish()
        return {"bits": same(found, of), "replaced": engine._workers[0].actor is not victim}


def main() -> None:
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    try:
        cluster = Cluster(initialize_head=True, head_node_args=small)
        cluster.add_node(**small)
    except Exception as error:  # Ray has a bare Exception for this
        print(f"no cluster could be started: {error}", flush=True)
        sys.exit(77)
    found = {"two machines": two_machines(cluster.address), "killed": killed(cluster.address)}
    print(json.dumps(found), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
