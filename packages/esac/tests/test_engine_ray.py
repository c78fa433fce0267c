from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from esac.engine import Job, SerialEngine, Task
from esac.worker import Evaluator
from sextet_common.errors import InputError

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from esac.engine_ray import RayEngine  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # Ray's own: it leaves sockets and subprocesses to the garbage collector, and announces changes to come.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*Ray will no longer override accelerator:FutureWarning"),
]
TASKS = [Task(m % 2, 1, m, sign, 0.1, keep=m == 0) for m in range(4) for sign in (1, -1)]


def job(steps: int) -> Job:
    return Job("Pendulum-v1", {"max_episode_steps": steps}, (8, 8))


def bases() -> np.ndarray:
    shape = Evaluator(job(5)).policy.shape
    return np.stack([shape.initial(np.random.default_rng(k)) for k in range(2)])


def wanted(of: Job) -> list[Any]:
    with SerialEngine(of) as serial:
        serial.start(bases(), TASKS)
        return serial.finish()


def same(found: list[Any], other: list[Any]) -> bool:
    return all(
        (a.total, a.length, a.failed) == (b.total, b.length, b.failed)
        and (a.transitions is None) == (b.transitions is None)
        and (a.transitions is None or np.array_equal(a.transitions, b.transitions))
        for a, b in zip(found, other, strict=True)
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=small)
    cluster.add_node(**small)
    yield cluster.address
    cluster.shutdown()


def test_actors_of_two_machines_give_the_same_bits_and_leave_nothing_connected(address: str) -> None:
    of = job(20)
    with RayEngine(of, 2, address=address) as engine:
        for _ in range(20):
            engine.start(bases(), TASKS)
            assert same(engine.finish(), wanted(of))
            if both := all(worker.ready for worker in engine._workers):
                break
            time.sleep(0.5)
        assert both  # each takes a CPU, and each machine has one
    assert not ray.is_initialized()


def test_a_killed_actor_s_task_is_done_again_to_the_same_result(address: str) -> None:
    of = job(3000)
    with RayEngine(of, 1, address=address) as engine:
        engine.start(bases(), TASKS[:1])
        engine.finish()
        engine.start(bases(), TASKS)
        time.sleep(0.1)
        ray.kill(engine._workers[0].actor)
        assert same(engine.finish(), wanted(of))


def test_what_no_cluster_answers_for_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="'NoSuch-v0' cannot be made"):
        RayEngine(Job("NoSuch-v0"), 1)
    with pytest.raises(InputError, match="workers is 0"):
        RayEngine(job(5), 0)
    with pytest.raises(InputError, match="no Ray cluster at '127\\.0"):
        RayEngine(job(5), 1, address="127.0.0.1:1")
    assert not ray.is_initialized()
