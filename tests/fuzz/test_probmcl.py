"""probmcl reads: features and labels in npz files, tables of labels, COCO's and VOC's annotations, pictures, runs."""

from __future__ import annotations

import importlib
import io
import json
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from harness import EXAMPLES, fuzz, holds
from hostile import archives, checkpoints, documents, mutated, npy, npy_files, stored, tables
from hypothesis import example, given, settings, strategies as st
from PIL import Image
from probmcl import Config, HeadConfig, MultiLabelSet, ProbMCL, commands, load
from probmcl.data import read_image
from probmcl.scenes import compose, digits
from run_folders import gone_on_from, left_by
from sextet_common import checkpoint

importlib.import_module("torchvision.datasets")  # its first import makes a folder for compiled code
FEW = settings(fuzz, max_examples=max(1, EXAMPLES // 3))


def read(kind: str) -> Any:
    def load_it(path: Path) -> MultiLabelSet:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels that no training image has
            return load(f"{kind}:{path}", **({} if kind == "npz" else {"size": 4}))

    return load_it


def sound(found: MultiLabelSet) -> None:
    for part in (found.train, found.validation, found.test):
        assert part.labels.shape == (len(part), found.n_labels) and np.isin(part.labels, (0, 1)).all()
        assert np.isfinite(part.batch(range(len(part))).numpy()).all()


draw = np.random.default_rng(0)
FEATURES = {
    "trainval_features": draw.normal(size=(12, 3)),
    "trainval_labels": (draw.random((12, 2)) < 0.7).astype(np.uint8),
    "test_features": draw.normal(size=(4, 3)),
    "test_labels": np.ones((4, 2), np.uint8),
}


@fuzz
@given(archives(FEATURES))
def test_features(content: bytes) -> None:
    holds(read("npz"), content, "yeast.npz", sound=sound)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(file, "PNG")
    return file.getvalue()


NAMES = [f"{number}.png" for number in range(6)]
PICTURES = {name: png() for name in NAMES}
TABLE = [["image", "cat", "dog", "split"]]
TABLE += [[n, "1", str(i % 2), ("train", "validation", "test")[i % 3]] for i, n in enumerate(NAMES)]


def as_table(rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in rows).encode()


@fuzz
@given(tables(TABLE))
@example(as_table([TABLE[0], ["x" * 5000, "1", "1", "train"]]))
@example(as_table([TABLE[0], ["a\0b", "1", "1", "train"]]))
@example(as_table([TABLE[0], ["../outside.png", "1", "1", "train"]]))
def test_tables_of_labels(content: bytes) -> None:
    holds(read("csv"), {"labels.csv": content, **PICTURES}, "folder", sound=sound)


ROW = {"file_name": NAMES[0], "labels": ["cat", "dog"], "split": "train", "objects": {"categories": ["cat"]}}


def metadata(content: bytes) -> dict[str, bytes]:
    others = "".join(json.dumps({"file_name": name, "labels": ["dog"]}) + "\n" for name in NAMES[1:])
    return {"metadata.jsonl": content + b"\n" + others.encode(), **PICTURES}


@fuzz
@given(documents(ROW))
@example(json.dumps(ROW | {"file_name": "x" * 5000}).encode())
@example(json.dumps(ROW | {"file_name": "a\0b"}).encode())
@example(json.dumps(ROW | {"labels": [1.5, None]}).encode())
@example(json.dumps({"file_name": NAMES[0], "objects": {"categories": 3}}).encode())
@example(json.dumps({"file_name": "", "labels": ["cat"]}).encode())
def test_metadata_of_folders(content: bytes) -> None:
    holds(read("folder"), metadata(content), "folder", sound=sound)


@fuzz
@given(mutated(png()))
def test_pictures(content: bytes) -> None:
    holds(lambda path: read_image(path, 4), content, "picture.png")


ADP = as_table([["Patch Names", "E", "E.M"], *([name, "1", str(i % 2)] for i, name in enumerate(NAMES))])
PARTS = {"train": np.array([0, 1, 2]), "valid": np.array([3]), "test": np.array([4, 5])}


def adp(**changed: bytes) -> dict[str, bytes]:
    parts = {f"splits/{name}.npy": changed.get(name, npy(rows)) for name, rows in PARTS.items()}
    pictures = {f"img_res_1um_bicubic/{name}": content for name, content in PICTURES.items()}
    return {"ADP_EncodedLabels_Release1_Flat.csv": changed.get("table", ADP), **parts, **pictures}


@fuzz
@given(npy_files(PARTS["train"]))
def test_row_numbers_of_parts(content: bytes) -> None:
    holds(read("adp"), adp(train=content), "adp", sound=sound)


def coco(part: str) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(NAMES)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1 + i % 2} for i in range(6)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def coco_files(content: bytes) -> dict[str, bytes]:
    pictures = {f"{part}2017/{name}": data for part in ("train", "val") for name, data in PICTURES.items()}
    return {
        "annotations/instances_train2017.json": content,
        "annotations/instances_val2017.json": json.dumps(coco("val")).encode(),
        **pictures,
    }


@FEW
@given(documents(coco("train")))
def test_cocos_annotations(content: bytes) -> None:
    holds(read("coco"), coco_files(content), "coco", sound=sound)


XML = b"<annotation><object><name>cat</name><difficult>0</difficult></object></annotation>"


def voc(content: bytes) -> dict[str, bytes]:
    base = "VOCdevkit/VOC2007"
    lists = {"train": (0, 1), "val": (2, 3), "test": (4, 5)}
    return {
        **{
            f"{base}/ImageSets/Main/{part}.txt": "".join(f"{n}\n" for n in numbers).encode()
            for part, numbers in lists.items()
        },
        **{f"{base}/JPEGImages/{n}.jpg": png() for n in range(6)},
        **{f"{base}/Annotations/{n}.xml": content if n == 0 else XML for n in range(6)},
    }


@fuzz
@given(mutated(XML))
@example(b"<!DOCTYPE a [<!ENTITY b '" + b"x" * 5000 + b"'>" + b"<!ENTITY c '" + b"&b;" * 5000 + b"'>]><a>&c;</a>")
@example(b"<annotation><object>cat</object></annotation>")
@example(b"<annotation>text</annotation>")
def test_vocs_annotations(content: bytes) -> None:
    holds(read("voc"), voc(content), "voc", sound=sound)


@cache
def model() -> bytes:
    with TemporaryDirectory() as folder:
        config = Config(epochs=1, classifier_epochs=1, batch_size=16, head=HeadConfig(dim=4, hidden=()), device="cpu")
        data = compose(digits(), sizes=(24, 12, 12))
        ProbMCL("convnet", config=config, width=2).fit(data).save(Path(folder, "x"))
        return Path(folder, "x").read_bytes()


def predicts(found: ProbMCL) -> None:
    assert found.n_labels == len(found.label_names)


@FEW
@given(data=st.data())
def test_models(data: st.DataObject) -> None:
    holds(ProbMCL.load, data.draw(checkpoints(model())), "model.safetensors", sound=predicts)


def test_a_model_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(model())
    found = checkpoint.load(path, "torch")
    checkpoint.save(path, found.arrays, {**found.meta, "width": 10**6})
    assert holds(ProbMCL.load, path.read_bytes(), "model.safetensors") is None


@cache
def few() -> MultiLabelSet:
    return compose(digits(), sizes=(16, 8, 8))


def trained(out: Path) -> Any:
    config = Config(epochs=1, classifier_epochs=1, batch_size=8, device="cpu")
    return ProbMCL("convnet", config=config, width=4).fit(few(), out)


@cache
def left() -> dict[str, bytes]:
    return left_by(trained)


@FEW
@given(data=st.data())
def test_a_training_that_goes_on(data: st.DataObject) -> None:
    holds(trained, data.draw(gone_on_from(left())), "run")


@FEW
@given(data=st.data())
def test_a_run_that_is_used(data: st.DataObject) -> None:
    files = data.draw(gone_on_from({name: left()[name] for name in ("config.json", "model.safetensors")}))
    holds(lambda run: commands._trained_run(run, None, "cpu"), files, "run")


VALID: list[tuple[Any, Any, str]] = [
    (read("npz"), stored([(f"{name}.npy", npy(array)) for name, array in FEATURES.items()]), "yeast.npz"),
    (read("csv"), {"labels.csv": as_table(TABLE), **PICTURES}, "folder"),
    (read("folder"), metadata(json.dumps(ROW).encode()), "folder with metadata"),
    (read("adp"), adp(), "adp"),
    (read("coco"), coco_files(json.dumps(coco("train")).encode()), "coco"),
    (read("voc"), voc(XML), "voc"),
    (lambda path: read_image(path, 4), png(), "picture.png"),
]


@pytest.mark.parametrize(("reader", "content", "name"), VALID, ids=[name for *_, name in VALID])
def test_what_the_fuzz_starts_from_is_valid(reader: Any, content: Any, name: str) -> None:
    assert holds(reader, content, name, valid=True) is not None


def test_the_model_that_the_fuzz_starts_from_is_valid() -> None:
    assert holds(ProbMCL.load, model(), "model.safetensors", valid=True) is not None
    assert holds(trained, left(), "run", valid=True) is not None
