"""The jobs to which tools/reliability.py lets accidents happen, and what their files hold.

The small ones use what all packages share: the run loop with NumPy and with torch, a checkpoint, a text file, a
replaced folder, a cache of decoded images, an exported folder. The others are the packages' own long jobs.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from sextet_common import checkpoint, checks, cli, data, files, hub, npy, seeding, training
from sextet_common.errors import DataWarning, InputError

STEPS = 12
TIMES = {
    "seconds", "cpu_seconds", "t", "time/seconds", "time/cpu_seconds", "time/fps", "time/sac_s", "time/wait_s",
    "time/eval_s", "time/time_elapsed",
}  # fmt: skip
LOGS = {"metrics.jsonl", "monitor.csv"}  # grow by lines; a kill may leave the last one incomplete


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an attempt may change: a longer run and a setting without influence; or another version of a file."""

    steps: checks.Growing[checks.Count] = STEPS
    threads: checks.Running[checks.Count] = 1
    version: checks.Natural = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that writes below ``out`` in the working folder; ``run`` is its run folder there, empty for none."""

    name: str
    call: Callable[[Settings], int]
    run: str = ""
    grows: bool = False
    weight: float = 1.0


class _Walk(training.Job):
    """A random walk, whose every step depends on the one before and on its own number."""

    framework = "numpy"
    seed = 3

    def __init__(self, steps: int) -> None:
        self.steps, self.place, self.trace = steps, np.zeros(300), np.zeros((0, 3), dtype=np.float32)

    def step(self, number: int) -> dict[str, float]:
        draw = np.random.default_rng((self.seed, number))
        self.place = 0.9 * self.place + draw.normal(size=len(self.place))
        self.trace = np.concatenate([self.trace, self.place[None, :3].astype(np.float32)])
        return {"loss": float(np.square(self.place).mean())}

    def state(self) -> dict[str, Any]:
        return {"place": self.place, "trace": self.trace, "name": "walk"}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.place, self.trace = state["place"], state["trace"]

    def flush(self, run: Any) -> None:
        files.write_text(run.path / "progress.txt", f"{len(self.trace)} steps\n")


class _Fit(training.Job):
    """A linear fit with Adam."""

    seed = 5

    def __init__(self, steps: int) -> None:
        import torch

        self.steps = steps
        with seeding.torch_seed(self.seed, "model"):
            self.model = torch.nn.Linear(20, 4)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def step(self, number: int) -> dict[str, Any]:
        import torch

        with seeding.torch_seed(self.seed, "batch", number):
            batch = torch.randn(16, 20)
        loss = (self.model(batch) - batch[:, :4]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def state(self) -> dict[str, Any]:
        from sextet_common import optimizers

        return {**self.model.state_dict(), **optimizers.state(self.optimizer)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        from sextet_common import optimizers

        self.model.load_state_dict({name: state[name] for name in ("weight", "bias")})
        optimizers.restore(self.optimizer, state)


def _trained(make: Callable[[int], training.Job]) -> Callable[[Settings], None]:
    def train(settings: Settings) -> None:
        cadence = training.Cadence(log=2, checkpoint=3)
        run = training.run(make(settings.steps), name="demo", out="out/run", record=settings, cadence=cadence)
        assert run is not None
        files.write_text(run.path / "summary.json", json.dumps({"steps": settings.steps, "last": run.metrics()[-1]}))

    return train


def _arrays(version: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(version)
    return {"a": draw.normal(size=(40, 10)), "b": draw.integers(0, 9, 50 + version), "c": np.float32(version)}


def _checkpoint(settings: Settings) -> None:
    checkpoint.save("out/state.safetensors", _arrays(settings.version), {"version": settings.version})


def _text(settings: Settings) -> None:
    files.write_text("out/deep/table.json", json.dumps({"version": settings.version, "values": [0.1] * 500}))


def _folder(settings: Settings) -> None:
    with files.replacing_folder("out/set") as folder:
        for name, array in _arrays(settings.version).items():
            npy.write(folder / f"{name}.npy", array)
        files.write_text(folder / "set.json", json.dumps({"version": settings.version}))


def _cache(settings: Settings) -> None:
    warnings.simplefilter("ignore", DataWarning)
    images = data.load("folder:images", cache="out/cache")
    files.write_text("out/fingerprint.txt", images.fingerprint)


def _hub(settings: Settings) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    is_there = Path("out/hub").exists()  # an exported folder is not replaced
    with contextlib.suppress(*(InputError,) if is_there else ()), hub.new_folder("out/hub") as folder:
        head = hub.write_images(folder, pixels, np.arange(6) % 2, ("cat", "dog"))
        files.write_text(folder / "README.md", hub.card(dict(head), "Six images."))


def _as_command(function: Callable[[Settings], None]) -> Callable[[Settings], int]:
    """Return the job as a command, with the exit codes and the one-line errors that users see."""

    def call(settings: Settings) -> int:
        def job() -> None:
            """Do the job."""
            function(settings)

        return cli.run("sextet-common", {"job": job}, ["job"])

    call.prepare = lambda: call(Settings())  # type: ignore[attr-defined]  # imports what it needs
    return call


def _of_package(module: str, words: str, preload: Iterable[str]) -> Callable[[Settings], int]:
    def call(settings: Settings) -> int:
        code: int = import_module(f"{module}.__main__").main(words.split())
        return code

    def prepare() -> None:
        for name in (*preload, f"{module}.__main__", f"{module}.commands"):
            import_module(name)

    call.prepare = prepare  # type: ignore[attr-defined]
    return call


# A package's module, the arguments of its long job, and the modules that it imports while it runs.
_FIGURES = ("matplotlib.figure", "matplotlib.backends.backend_agg")
_PACKAGES = {
    "attention-matching": (
        "attention_matching",
        "distill --out out/run --data npz:images.npz --ipc 1 --steps 40 --width 8 --real-batch 8 --checkpoint-every 10"
        " --device cpu",
        _FIGURES,
    ),
    "d2m-generator": (
        "d2m_generator",
        "pretrain --out out/run --data npz:images.npz --steps 30 --width 4 --batch-size 8 --discriminator-width 4"
        " --checkpoint-every 10 --sample-every 20 --no-judged --device cpu",
        ("torch._dynamo",),
    ),
    "probmcl": (
        "probmcl",
        "train --out out/run --data npz:features.npz --epochs 4 --classifier-epochs 4 --batch-size 16 --dim 8"
        " --hidden 16 --width 16 --checkpoint-every 12 --device cpu",
        ("torch._dynamo", "torchmetrics"),
    ),
    "subclass-kd": (
        "subclass_kd",
        "teacher --out out/run --data digits --epochs 6 --network convnet --width 2 --batch-size 256"
        " --patience 5 --views 2 --checkpoint-every 2 --device cpu",
        ("torch._dynamo", "torchmetrics", "sklearn.datasets", *_FIGURES),
    ),
    "esac": (
        "esac",
        "train --out out/run --env Pendulum-v1 --steps 4000 --hidden 8 --population 2 --injected 1 --elite 0.5"
        " --store all --sac-episodes 1 --updates-per-step 0.1 --start-steps 200 --batch-size 16 --eval-every 2000"
        " --eval-episodes 1 --checkpoint-every 1200 --workers 1 --final-episodes 1",
        ("torch._dynamo", "gymnasium.envs.classic_control"),
    ),
    "gmr-metric": ("gmr_metric", "reduce mixture.json -k 4 --out out/r.npz --trace out/t.json", ("scipy.optimize",)),
}  # fmt: skip
JOBS = {
    job.name: job
    for job in (
        Job("numpy", _as_command(_trained(_Walk)), "out/run", grows=True, weight=30),
        Job("torch", _as_command(_trained(_Fit)), "out/run", grows=True, weight=25),
        Job("checkpoint", _as_command(_checkpoint), weight=10),
        Job("text", _as_command(_text), weight=5),
        Job("folder", _as_command(_folder), weight=10),
        Job("cache", _as_command(_cache), weight=10),
        Job("hub", _as_command(_hub), weight=6),
        *(
            Job(name, _of_package(*given), "" if name == "gmr-metric" else "out/run", weight=0.4)
            for name, given in _PACKAGES.items()
        ),
    )
}


def write_data(folder: Path) -> None:
    """Write the jobs' data: a few images of three classes, features with four labels, a mixture, a folder of images."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (draw.random((60, 8, 8)) * 0.5 + labels[:, None, None] / 4).astype(np.float32)
    np.savez(folder / "images.npz", train_images=images[:48], train_labels=labels[:48], test_images=images[48:],
             test_labels=labels[48:])  # fmt: skip
    y = (draw.random((160, 4)) < 0.4).astype(np.uint8)
    y[np.arange(160), np.arange(160) % 4] = 1
    x = (y @ draw.normal(size=(4, 6)) + draw.normal(size=(160, 6))).astype(np.float32)
    np.savez(folder / "features.npz", trainval_features=x[:120], trainval_labels=y[:120], test_features=x[120:],
             test_labels=y[120:])  # fmt: skip
    mixture = {"format": "gmr-metric mixture", "version": 1, "weights": np.full(60, 1 / 60).tolist(),
               "means": draw.normal(size=(60, 2)).tolist(),
               "covariances": np.broadcast_to(0.1 * np.eye(2), (60, 2, 2)).tolist()}  # fmt: skip
    (folder / "mixture.json").write_text(json.dumps(mixture))
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            place = folder / "images" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def content(path: Path) -> Any:
    """Return a file's content without seconds, for exact comparison; raise if it is broken."""
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, Any] = dict(file.metadata())
        del metadata["sha256"]  # depends on the seconds
        if "evaluations.when" in arrays:
            arrays["evaluations.when"] = arrays["evaluations.when"][:, 0]  # the others are seconds
        metadata["meta"] = timeless(json.loads(metadata["meta"]))
        return bits(arrays), metadata
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            return bits({name: stored[name] for name in stored.files if name not in TIMES})
    if path.suffix == ".npy":
        return bits({path.name: np.load(path, allow_pickle=False)})
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        head, _, rest = path.read_text(encoding="utf-8").rpartition("}\n")  # of monitor.csv
        return head, timeless(list(csv.DictReader(io.StringIO(rest))))
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    return path.read_bytes()


def bits(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return arrays in a form that compares bit by bit."""
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def timeless(value: Any) -> Any:
    """Remove measured times."""
    if isinstance(value, dict):
        return {name: timeless(inner) for name, inner in value.items() if name not in TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value
