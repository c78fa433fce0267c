from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from esac.engines.memory import Block, View
from esac.engines.process import ProcessEngine
from esac.engines.serial import SerialEngine
from esac.play.task import Evaluator, Job, Task

nameless = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere all blocks have names")


@pytest.fixture(params=[pytest.param("nameless", marks=nameless), "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "named":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return str(request.param)


def test_a_view_sees_what_is_written_into_its_block(kind: str) -> None:
    block = Block(12)
    assert block.address.startswith("/proc/") == (kind == "nameless")
    written: np.ndarray = np.ndarray(3, np.float32, buffer=block.buf)
    written[:] = 1, 2, 3
    view = View(block.address)
    seen: np.ndarray = np.ndarray(3, np.float32, buffer=view.buf)
    written[1] = 7
    assert seen.tolist() == [1, 7, 3]
    del written, seen
    view.close()
    block.close()
    with pytest.raises(FileNotFoundError):
        View(block.address)


def test_no_block_has_the_address_of_an_earlier_one(kind: str) -> None:
    addresses = set()
    for _ in range(3):  # the descriptor of a closed one is used again
        block = Block(4)
        addresses.add(block.address)
        block.close()
    assert len(addresses) == 3


def test_the_kind_of_memory_changes_no_episode(kind: str) -> None:
    job = Job("Pendulum-v1", {"max_episode_steps": 20}, hidden=(4,))
    tasks = [Task(base, 0, member, 1, 0.1) for member, base in enumerate((0, 1, 2, 0))]
    size = Evaluator(job).policy.shape.size
    found = []
    for engine in (SerialEngine(job), ProcessEngine(job, 1)):
        with engine:
            for count in (1, 3, 40):  # the second and the third need larger blocks
                bases = np.random.default_rng(count).normal(size=(count, size)).astype(np.float32)
                engine.start(bases, [task for task in tasks if task.base < count])
                found.append(engine.finish())
    assert found[:3] == found[3:]
