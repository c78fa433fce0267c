from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from esac.algorithm import ESAC
from esac.config import ESACConfig, changed
from esac.engines.ledger import WorkerError
from esac.engines.process import ProcessEngine
from esac.engines.serial import Engine, SerialEngine
from esac.play.rollout import Episode
from esac.play.task import Evaluator, Job, Task
from sextet_common.errors import InputError

HERE = Path(__file__).parent
TASKS = [Task(0, 0, member, sign, 0.1) for member in range(4) for sign in (1, -1)]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)  # workers get this process's path


def job(wrong: str = "", folder: Path | None = None, pause: float = 0.0) -> Job:
    options = {"wrong": wrong, "folder": str(folder or ""), "pause": pause}
    return Job("faulty_environments:Faulty-v0", options, (4,))


def done(engine: Engine, tasks: list[Task] = TASKS) -> list[Episode]:
    size = Evaluator(job()).policy.shape.size
    with engine:
        engine.start(np.full((1, size), 0.1, np.float32), tasks)
        return engine.finish()


@pytest.fixture(scope="module")
def healthy() -> Iterator[list[Episode]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield done(SerialEngine(job()))


def begins_right(task: Task) -> bool:
    evaluator = Evaluator(job())
    evaluator(task, np.zeros((1, evaluator.policy.shape.size), np.float32))
    return bool(evaluator.env.unwrapped.right)  # type: ignore[attr-defined]


def test_the_faulty_environment_is_at_fault_in_some_episodes_alone() -> None:
    assert {begins_right(task) for task in TASKS} == {True, False}


@pytest.mark.parametrize("wrong", ["raise", "exit", "hang"])
def test_what_goes_wrong_once_changes_no_result(wrong: str, healthy: list[Episode], tmp_path: Path) -> None:
    assert done(ProcessEngine(job(wrong, tmp_path), 2, timeout=2.0)) == healthy
    assert (tmp_path / "done").exists()


def test_an_environment_that_raises_once_is_made_anew_in_this_process_too(
    healthy: list[Episode], tmp_path: Path
) -> None:
    assert done(SerialEngine(job("raise", tmp_path))) == healthy


def test_an_episode_that_always_raises_fails_and_the_others_do_not(
    healthy: list[Episode], caplog: pytest.LogCaptureFixture
) -> None:
    found = done(SerialEngine(job("raise")))
    for task, episode, wanted in zip(TASKS, found, healthy, strict=True):
        failed = Episode(-math.inf, 0, True, None, "RuntimeError: the simulator diverged")
        assert episode == (failed if begins_right(task) else wanted)
    assert done(ProcessEngine(job("raise"), 2)) == found
    assert len(caplog.records) == 1 and "failed 3 times" in caplog.text and "in step" in caplog.text


def test_an_episode_that_hangs_twice_has_failed(healthy: list[Episode]) -> None:
    right = next(task for task in TASKS if begins_right(task))
    wrong = next(task for task in TASKS if not begins_right(task))
    found = done(ProcessEngine(job("hang"), 1, timeout=0.5), [right, wrong])
    assert found == [
        Episode(-math.inf, 0, True, None, "an episode took more than 0.5 s"),
        healthy[TASKS.index(wrong)],
    ]


def test_an_episode_that_kills_every_worker_ends_the_run_and_is_named() -> None:
    right = next(task for task in TASKS if begins_right(task))
    with pytest.raises(WorkerError, match=rf"3 times in a row; .*: {right}: a worker ended with exit code 3"):
        done(ProcessEngine(job("exit"), 1, restarts=2), [right])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("start raise", "OSError: no licence for a worker"), ("start exit", "exit code 7 while it started")],
)
def test_workers_that_cannot_start_are_given_up_with_their_own_words(wrong: str, message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        done(ProcessEngine(job(wrong), 1, restarts=1))


def test_workers_that_are_killed_one_after_another_change_no_result() -> None:
    of = job(pause=0.02)
    engine = ProcessEngine(of, 2)
    size = Evaluator(of).policy.shape.size
    with engine:
        engine.start(np.full((1, size), 0.1, np.float32), TASKS)
        for number in engine.processes():
            time.sleep(0.3)
            os.kill(number, signal.SIGKILL)
        found = engine.finish()
    assert found == done(SerialEngine(of))


def test_a_generation_that_is_given_up_leaves_nothing_to_the_next(healthy: list[Episode]) -> None:
    size = Evaluator(job()).policy.shape.size
    bases = np.full((1, size), 0.1, np.float32)
    with ProcessEngine(job(), 2) as engine:
        engine.start(bases + 1, TASKS[::-1])
        engine.start(bases, TASKS)
        assert engine.finish() == healthy


def test_a_function_that_workers_cannot_import_is_refused_with_the_remedy() -> None:
    from faulty_environments import own

    with pytest.raises(InputError, match=r"cannot be sent to workers.*no lambda.*workers=0"):
        ProcessEngine(Job(lambda: own(), {}, (4,)), 1)
    assert done(ProcessEngine(Job(own, {}, (4,)), 1)) == done(SerialEngine(Job(own, {}, (4,))))


def test_numbers_out_of_range_are_refused() -> None:
    makers: list[tuple[str, Callable[[], object]]] = [
        ("workers must be a whole number >= 1, got 0", lambda: ProcessEngine(job(), 0)),
        ("restarts must be a whole number >= 0, got -1", lambda: ProcessEngine(job(), 1, restarts=-1)),
        ("timeout must be a number > 0, got 0", lambda: ProcessEngine(job(), 1, timeout=0)),
        ("tries must be a whole number >= 1, got 0", lambda: SerialEngine(job(), task_tries=0)),
    ]
    for message, make in makers:
        with pytest.raises(InputError, match=message):
            make()


MAIN = """
import gymnasium
import numpy as np
import torch
from esac.engines.process import ProcessEngine
from esac.play.task import Job, Task

def own():
    return gymnasium.make("Pendulum-v1", max_episode_steps=5)

gymnasium.register("Named-v0", "faulty_environments:Telling")
gymnasium.register("Own-v0", own)

def main(env):
    with ProcessEngine(Job(env, {}, ()), 1) as engine:
        engine.start(np.zeros((1, 4), np.float32), [Task(0, 0, 0, 1, 0.1)])
        print(engine.finish()[0].total)

"""


def script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(MAIN + text)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [sys.executable, str(folder / "script.py")], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def test_workers_import_neither_the_main_script_nor_its_torch(tmp_path: Path) -> None:
    ended = script('main("Named-v0")', tmp_path)  # registered by the script; without a guard
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) == 0  # a reward of 1 if torch is imported, of 2 beyond 150 MB


def test_workers_import_a_main_script_whose_environment_they_need(tmp_path: Path) -> None:
    for env in ("own", '"Own-v0"'):
        ended = script(f'if __name__ == "__main__":\n    main({env})', tmp_path)
        assert ended.returncode == 0 and float(ended.stdout) < 0, ended.stderr


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    ended = script("main(own)", tmp_path)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and "WorkerError" in last and 'if __name__ == "__main__":' in last


def test_a_worker_is_replaced_after_its_tasks_with_the_same_results(tmp_path: Path) -> None:
    tasks = [Task(0, 0, k, 1, 0.1) for k in range(7)]
    job, bases = Job("Pendulum-v1", {"max_episode_steps": 5}, ()), np.zeros((1, 4), np.float32)
    totals, workers = {}, {}
    for recycle in (0, 2):
        with ProcessEngine(job, 1, recycle=recycle) as engine:
            first = engine.processes()
            engine.start(bases, tasks)
            totals[recycle] = [e.total for e in engine.finish()]
            workers[recycle] = first == engine.processes()
    assert totals[0] == totals[2] and workers == {0: True, 2: False}
    with pytest.raises(InputError, match="recycle must be"):
        ProcessEngine(job, 1, recycle=-1)


SETTINGS: dict[str, Any] = {
    "population": 4, "elite": 0.25, "injected": 1, "sac_schedule": "annealed", "sac_every": 1, "sac_least": 1.0,
    "sac_episodes": 1,
    "start_steps": 60, "hidden": [8, 8], "eval_every": 1000, "eval_episodes": 1, "checkpoint_every": 500,
    "amt_every": 1, "updates_per_step": 0.2, "sac": {"batch_size": 8, "capacity": 5000},
}  # fmt: skip
STEPS = 2600
SCRIPT = """
import sys, time
from esac.algorithm import ESAC
from esac.config import changed

def tell(model, generation):
    print(generation.number, flush=True)
    time.sleep(0.3 if generation.number == 3 else 0.0)

if __name__ == "__main__":
    made = ESAC("Pendulum-v1", changed({settings!r}), options={{"max_episode_steps": 50}})
    made.learn({steps}, tell, out=sys.argv[1])
"""


def learner() -> ESAC:
    config: ESACConfig = changed(SETTINGS)
    return ESAC("Pendulum-v1", config, options={"max_episode_steps": 50})


def state(made: ESAC) -> dict[str, np.ndarray]:
    values = {key: value for key, value in made.state().items() if "seconds" not in key}
    values["evaluations.when"] = values["evaluations.when"][:, 0]  # the others are times
    return {key: np.asarray(value) for key, value in values.items()}


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    return state(learner().learn(STEPS))


def eventually(question: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not question() and time.monotonic() < until:
        time.sleep(0.1)
    return question()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_nothing_behind_and_goes_on_to_the_same_numbers(
    sent: signal.Signals, whole: dict[str, np.ndarray], tmp_path: Path
) -> None:
    script, out = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT.format(settings={**SETTINGS, "workers": 2}, steps=STEPS))
    with subprocess.Popen(
        [sys.executable, str(script), str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(line.strip() == "3" for line in process.stdout)
        family = psutil.Process(process.pid).children(recursive=True)
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        assert len(family) >= 2 and any("/memfd:esac" in line for line in maps)
        assert not any("/dev/shm/" in line for line in maps)  # nothing has a name that somebody would have to remove
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        process.stdout.read()
        assert process.wait(60) != 0
    assert eventually(lambda: not any(child.is_running() for child in family))
    assert list((out / "checkpoints").glob("*.safetensors"))
    arrays = state(learner().learn(STEPS, out=out))
    assert arrays.keys() == whole.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, whole[key], err_msg=key)
