"""Files that attention-matching reads: distilled sets, evaluations, architecture tables, teachers, run folders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from attention_matching import DistilledSet
from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.distill import Distiller
from attention_matching.distillation.result import read_result
from attention_matching.evaluation.config import EvaluateConfig, TrainConfig
from attention_matching.evaluation.cross import CrossTable
from attention_matching.evaluation.evaluate import evaluate
from attention_matching.evaluation.soft_labels import train_teacher
from attention_matching.experiments.continual import ContinualConfig, continual
from attention_matching.experiments.grid import Grid
from attention_matching.experiments.search import SearchConfig, search, search_data
from attention_matching.export.card import data_card, read_evaluation, summary
from attention_matching.images.preprocess import ZCA, Preprocessing
from attention_matching.images.select import random_real
from harness import EXAMPLES, fuzz, holds
from hostile import checkpoints, documents
from hypothesis import given, settings, strategies as st
from run_folders import gone_on_from, left_by
from sextet_common.data import ImageSet

FEW = settings(fuzz, max_examples=max(1, EXAMPLES // 2))  # a job takes longer than reading
TRAIN = TrainConfig(epochs=1, batch=8, device="cpu")
EVALUATE = EvaluateConfig(networks=1, epochs=1, batch=8, width=4, depth=1, device="cpu")
DISTILL = DistillConfig(ipc=1, steps=1, real_batch=4, width=4, depth=1, device="cpu")
CONTINUAL = ContinualConfig(
    steps=2, ipc=1, buffers=("random",), orders=1, networks=1, width=4, depth=1, distill=DISTILL, training=TRAIN
)
SEARCH = SearchConfig(
    grid=Grid(widths=(4,), depths=(1,), norms=("none",), activations=("relu",), poolings=("avg",)),
    networks=1, proxy=TRAIN, whole=TRAIN,
)  # fmt: skip

PLAIN = DistilledSet(
    torch.linspace(-1, 1, 4 * 3 * 2 * 2).reshape(4, 3, 2, 2),
    torch.tensor([0, 0, 1, 1]),
    classes=("cat", "dog"),
    preprocessing=Preprocessing(torch.full((3,), 0.5), torch.full((3,), 0.25)),
    meta={"method": "datadam", "data": "digits", "seconds": 1.5, "ipc": 2},
    soft_labels=torch.full((4, 2), 0.5),
)
WHITENED = dataclasses.replace(
    PLAIN,
    preprocessing=Preprocessing(
        torch.full((3,), 0.5), torch.full((3,), 0.25), ZCA(torch.zeros(12), torch.eye(12), torch.eye(12))
    ),
    soft_labels=None,
)


def saved(distilled: DistilledSet) -> bytes:
    with TemporaryDirectory() as folder:
        distilled.save(Path(folder, "x"))
        return Path(folder, "x").read_bytes()


ONE = Preprocessing(torch.ones(1), torch.ones(1))
GREY = saved(dataclasses.replace(PLAIN, images=torch.zeros(4, 1, 8, 8), preprocessing=ONE))


def check_set(distilled: DistilledSet) -> None:
    assert distilled.images.dtype == torch.float32 and distilled.images.isfinite().all()
    assert distilled.labels.dtype == torch.int64 and distilled.labels.shape == (len(distilled),)
    assert all(isinstance(name, str) for name in distilled.classes)
    pixels = distilled.pixels()
    assert pixels.shape == distilled.images.shape and pixels.dtype == np.float32
    assert distilled.preprocessing(pixels).shape == distilled.images.shape
    if distilled.soft_labels is not None:
        assert ((distilled.soft_labels.double().sum(dim=1) - 1).abs() < 1e-2).all()
    summary(distilled)
    data_card(distilled)


@pytest.mark.parametrize("kind", ["plain", "whitened"])
@fuzz
@given(data=st.data())
def test_distilled_sets(kind: str, data: st.DataObject) -> None:
    content = data.draw(checkpoints(SETS[kind]))
    holds(DistilledSet.load, content, "distilled.safetensors", sound=check_set)


SETS = {"plain": saved(PLAIN), "whitened": saved(WHITENED)}
EVALUATION = {
    "accuracies": {"distilled": [0.5, 0.75], "random real": [0.25]},
    "config": {"epochs": 3, "augment": None, "lr": 0.01},
    "scores": {"lrs": 0.5, "ars": 0.25},
}


@fuzz
@given(documents(EVALUATION))
def test_evaluations(content: bytes) -> None:
    holds(read_evaluation, content, "evaluation.json", sound=lambda evaluation: data_card(PLAIN, evaluation))


CROSS = {"distilled": {"convnet": [0.5, 0.75], "vgg11": [0.5]}, "random real": {"convnet": [0.25], "vgg11": [0.5]}}


def check_table(table: CrossTable) -> None:
    table.to_markdown()
    json.dumps(table.to_json(), allow_nan=False)
    assert all(0 <= row.mean <= 1 and row.std >= 0 for row in table.distilled.values())


@fuzz
@given(documents(CROSS))
def test_tables_across_architectures(content: bytes) -> None:
    holds(CrossTable.load, content, "cross.json", sound=check_table)


# ---------------------------------------------------------------------------------------------------------------------
# Run folders: each job is already finished, so resuming it only reads.


@cache
def job(name: str) -> tuple[Callable[[Path], Any], dict[str, bytes]]:
    """Return the function that resumes a job, and the files of the finished job."""
    pixels = np.linspace(0, 1, 8 * 4 * 4, dtype=np.float32).reshape(8, 4, 4)
    images = ImageSet.of(pixels, np.arange(8) % 2, pixels[:4], np.arange(4) % 2)
    small = random_real(images, 1)
    resume: dict[str, Callable[[Path], Any]] = {
        "distill": lambda out: Distiller(DISTILL).fit(images, out),
        "evaluate": lambda out: evaluate(small, images, EVALUATE, out),
        "continual": lambda out: continual(images, CONTINUAL, out),
        "search": lambda out: search(images, {"random": random_real(search_data(images, SEARCH), 1)}, SEARCH, out),
        "teacher": lambda out: train_teacher(images, EVALUATE, path=out / "teacher"),
    }
    return resume[name], left_by(resume[name])


@pytest.mark.parametrize("name", ["distill", "evaluate", "continual", "search", "teacher"])
@FEW
@given(drawn=st.data())
def test_resumed_jobs(name: str, drawn: st.DataObject) -> None:
    resume, files = job(name)
    holds(resume, drawn.draw(gone_on_from(files, "teacher")), "run")


@pytest.mark.parametrize("name", ["distill", "evaluate", "continual", "search", "teacher"])
def test_a_finished_job_reads_its_folder(name: str) -> None:
    resume, files = job(name)
    assert holds(resume, files, "run", valid=True) is not None


@FEW
@given(content=documents({"job": "attention-matching distill", "config": {"data": "digits"}}))
def test_the_source_of_a_distilled_set(content: bytes) -> None:
    holds(lambda run: read_result(run, None), {"config.json": content, "distilled.safetensors": GREY}, "run")


FILES: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "plain": (DistilledSet.load, SETS["plain"]),
    "whitened": (DistilledSet.load, SETS["whitened"]),
    "evaluation": (read_evaluation, json.dumps(EVALUATION).encode()),
    "cross": (CrossTable.load, json.dumps(CROSS).encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_the_starting_files_are_valid(name: str) -> None:
    read, content = FILES[name]
    assert holds(read, content, "file", valid=True) is not None
