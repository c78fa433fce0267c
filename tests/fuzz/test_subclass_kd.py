"""Files that subclass-kd reads: hierarchies, MHIST's votes, teachers' logits, comparisons, networks, run folders."""

from __future__ import annotations

import dataclasses
import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from harness import EXAMPLES, fuzz, holds
from hostile import checkpoints, documents, mutated, npy, npy_files, tables
from hypothesis import example, given, settings, strategies as st
from PIL import Image
from run_folders import gone_on_from, left_by
from sextet_common import checkpoint
from sextet_common.errors import InputError
from subclass_kd import (
    Bits,
    Classifier,
    Comparison,
    Hierarchy,
    Scores,
    SubclassSet,
    TeacherLogits,
    TrainConfig,
    Views,
    build,
    load,
    load_into,
    train_teacher,
)
from subclass_kd.saved import RECIPE, Recipe, rebuild

FEW = settings(fuzz, max_examples=max(1, EXAMPLES // 2))
NAMES = [["class", "subclass"], ["cat", "tabby"], ["cat", "lion"], ["dog", "poodle"]]


def is_sound(hierarchy: Hierarchy) -> None:
    assert sum(hierarchy.sizes) == hierarchy.n_subclasses == len(set(hierarchy.subclass_names))


@fuzz
@given(tables(NAMES))
def test_hierarchies_in_tables(content: bytes) -> None:
    holds(Hierarchy.from_csv, content, "names.csv", sound=is_sound)


@fuzz
@given(documents({"tabby": "cat", "lion": "cat", "poodle": "dog"}))
@example(json.dumps({"cat": ["tabby", "lion"], "dog": ["poodle"]}).encode())
@example(json.dumps({"cat": ["tabby", ["lion"]], "dog": []}).encode())
def test_hierarchies_in_json(content: bytes) -> None:
    holds(Hierarchy.of, content, "names.json", sound=is_sound)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(file, "PNG")
    return file.getvalue()


HEAD = ["Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition"]
ROWS = [
    [f"{part}{votes}{copy}.png", "SSA" if votes >= 4 else "HP", str(votes), part]
    for part in ("train", "test")
    for votes in (0, 2, 5, 7)
    for copy in range(2)
]


def mhist(content: bytes) -> dict[str, bytes]:
    return {"annotations.csv": content, **{f"images/{row[0]}": png() for row in ROWS}}


def as_table(rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in rows).encode()


def read_mhist(path: Path) -> Any:
    data = load(f"mhist:{path}", size=4)
    for part in (data.train, data.validation, data.test):
        part.batch(np.arange(len(part)))
    return data


@FEW
@given(tables([HEAD, *ROWS]))
@example(as_table([HEAD, ["train00.png", "HP", "²", "train"]]))
@example(as_table([HEAD, ["train00.png", "HP", "1" * 5000, "train"]]))
@example(as_table([HEAD, ["x" * 5000, "HP", "0", "train"]]))
@example(as_table([HEAD, ["a\0b", "HP", "0", "train"]]))
def test_votes(content: bytes) -> None:
    holds(read_mhist, mhist(content), "mhist")


@FEW
@given(mutated(png()))
def test_pictures(content: bytes) -> None:
    files = mhist(as_table([HEAD, *ROWS]))
    holds(read_mhist, {**files, "images/train00.png": content}, "mhist")


META = {"images": 3, "outputs": 2, "views": 1, "shift": 0.1, "scale": 0.1, "flip": False, "seed": 0, "key": ""}
VIEW = np.arange(6, dtype=np.float32).reshape(3, 2)


def readable(logits: TeacherLogits) -> None:
    assert all(logits(view, np.arange(len(VIEW))).dtype == torch.float32 for view in range(len(logits)))


@fuzz
@given(documents(META))
@example(json.dumps({**META, "views": float("inf")}).encode())
@example(json.dumps({**META, "views": 10**12}).encode())
def test_descriptions_of_logits(content: bytes) -> None:
    holds(TeacherLogits, {"logits.json": content, "view-0000.npy": npy(VIEW)}, "logits", sound=readable)


@fuzz
@given(npy_files(VIEW))
def test_logits(content: bytes) -> None:
    holds(
        TeacherLogits,
        {"logits.json": json.dumps(META).encode(), "view-0000.npy": content},
        "logits",
        sound=readable,
    )


SCORES = {field.name: 0.5 for field in dataclasses.fields(Scores)}
BITS = {field.name: 0.5 for field in dataclasses.fields(Bits)} | {"name": "label entropy"}
COST = {role: {"parameters": 10, "multiply_adds": 20, "seconds": 0.1} for role in ("teacher", "student")}
COMPARED = {"scores": {"alone": [SCORES, SCORES], "kd": [SCORES, SCORES]}, "cost": COST, "bits": [BITS]}


@fuzz
@given(documents(COMPARED))
def test_comparisons(content: bytes) -> None:
    holds(Comparison.load, {"comparison.json": content}, "compared", sound=Comparison.table)


@cache
def weights() -> bytes:
    with TemporaryDirectory() as folder:
        network = build("convnet", (1, 8, 8), 3, width=2)
        checkpoint.save(Path(folder, "x"), network.state_dict(), {"subclasses": ["a", "b", "c"]})
        return Path(folder, "x").read_bytes()


def read_weights(path: Path) -> None:
    load_into(build("convnet", (1, 8, 8), 3, width=2), path)


@FEW
@given(data=st.data())
def test_weights(data: st.DataObject) -> None:
    holds(read_weights, data.draw(checkpoints(weights())), "model.safetensors")


def small() -> SubclassSet:
    images = np.linspace(0, 1, 12 * 64, dtype=np.float32).reshape(12, 1, 8, 8), np.arange(12) % 3
    return SubclassSet.of(images, images, Hierarchy.from_dict({"x": ["a", "b"], "y": ["c"]}))


def train(out: Path) -> Any:
    config = TrainConfig(epochs=1, batch_size=8, views=Views(1), device="cpu")
    return train_teacher(build("convnet", (1, 8, 8), 3, width=2), small(), config, out)


@cache
def run_folder() -> dict[str, bytes]:
    return left_by(train)


@FEW
@given(data=st.data())
def test_resumed_trainings(data: st.DataObject) -> None:
    holds(train, data.draw(gone_on_from(run_folder())), "run")


RECIPE_TABLE = {"data": "digits", "network": "convnet", "width": 2, "size": None}


META_OF_WEIGHTS = {
    "model": "subclass-kd",
    "subclasses": ["a", "b", "c"],
    "classes": ["x", "y"],
    "class_of": [0, 0, 1],
    "input_shape": [1, 8, 8],
    "architecture": {"network": "convnet", "width": 2},
}


@FEW
@given(documents(META_OF_WEIGHTS))
@example(json.dumps(META_OF_WEIGHTS | {"architecture": {"network": "convnet", "width": 10**6}}).encode())
@example(json.dumps(META_OF_WEIGHTS | {"architecture": {"network": 3, "width": "x"}}).encode())
@example(json.dumps(META_OF_WEIGHTS | {"class_of": [0, 0, 10**30]}).encode())
@example(json.dumps(META_OF_WEIGHTS | {"input_shape": [10**6, 8, 8]}).encode())
@example(100_000 * b"[")
def test_shared_networks(content: bytes) -> None:
    try:
        meta = json.loads(content)
    except (ValueError, RecursionError):  # lists nested too deeply
        return
    if isinstance(meta, dict):
        with TemporaryDirectory() as folder:
            try:
                checkpoint.save(
                    Path(folder, "model.safetensors"), build("convnet", (1, 8, 8), 3, width=2).state_dict(), meta
                )
            except InputError:  # NaN and infinity, which such a file cannot hold
                return
            files = {"model.safetensors": Path(folder, "model.safetensors").read_bytes()}
        holds(Classifier.from_pretrained, files, "hub")


@fuzz
@given(documents(RECIPE_TABLE))
def test_recipes_of_networks(content: bytes) -> None:
    holds(Recipe.read, {RECIPE: content}, "run")


def test_a_network_that_claims_to_be_huge_takes_no_memory() -> None:
    def network(path: Path) -> Any:
        return rebuild(path, small())

    run = {RECIPE: json.dumps(RECIPE_TABLE).encode(), "model.safetensors": weights()}
    assert holds(network, run, "run", valid=True) is not None
    assert holds(network, {**run, RECIPE: json.dumps({**RECIPE_TABLE, "width": 10**6}).encode()}, "run") is None


VALID = [
    (Hierarchy.from_csv, as_table(NAMES), "names.csv"),
    (read_mhist, mhist(as_table([HEAD, *ROWS])), "mhist"),
    (TeacherLogits, {"logits.json": json.dumps(META).encode(), "view-0000.npy": npy(VIEW)}, "logits"),
    (Comparison.load, {"comparison.json": json.dumps(COMPARED).encode()}, "compared"),
    (Recipe.read, {RECIPE: json.dumps(RECIPE_TABLE).encode()}, "run"),
]


@pytest.mark.parametrize(("read", "content", "name"), VALID, ids=[name for *_, name in VALID])
def test_the_unchanged_files_are_valid(read: Any, content: Any, name: str) -> None:
    assert holds(read, content, name, valid=True) is not None
    holds(read_weights, weights(), "model.safetensors", valid=True)
    assert holds(train, run_folder(), "run", valid=True) is not None
