"""Data from outside: arrays, tensors, datasets of torch and Hugging Face, folders with metadata, caches."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from probmcl import Config, HeadConfig, MultiLabelSet, ProbMCL, load
from probmcl.__main__ import main
from sextet_common.errors import DataWarning, InputError
from torch.utils.data import Dataset, TensorDataset

NAMES = ("ape", "bat", "cat")
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 3, 6, 6), dtype=np.uint8)
LABELS = (np.random.default_rng(1).random((30, 3)) < 0.5).astype(np.uint8)
LABELS[:3] = np.eye(3)
PARTS = {"train": slice(0, 18), "validation": slice(18, 24), "test": slice(24, 30)}


def is_the_same(data: MultiLabelSet) -> None:
    """Compare all images and their labels with the given ones, byte by byte."""
    expected = {x.tobytes(): y.tolist() for x, y in zip(IMAGES, LABELS, strict=True)}
    found = {}
    for part in (data.train, data.validation, data.test):
        batch = (part.batch(range(len(part))) * 255).round().byte().numpy()
        found |= {x.tobytes(): y.tolist() for x, y in zip(batch, part.labels, strict=True)}
    assert found == expected


class Pairs(Dataset[Any]):
    def __init__(self, rows: slice, kind: str = "pil") -> None:
        self.images, self.labels, self.kind = IMAGES[rows], LABELS[rows], kind

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        image = self.images[row]
        if self.kind == "pil":
            return Image.fromarray(image.transpose(1, 2, 0)), self.labels[row].tolist()
        return torch.from_numpy(image.astype(np.float32) / np.float32(255)), torch.from_numpy(self.labels[row])


@pytest.mark.parametrize("form", ["arrays", "tensors", "tensor set", "pil", "floats", "mapping", "four"])
def test_every_form_holds_the_same_images_and_labels(form: str) -> None:
    x, y = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    triple = tuple(PARTS.values())
    sources: dict[str, Any] = {
        "arrays": tuple((IMAGES[rows], LABELS[rows]) for rows in triple),
        "tensors": tuple((x[rows], y[rows].bool()) for rows in triple),
        "tensor set": tuple(TensorDataset(x[rows], y[rows]) for rows in triple),
        "pil": tuple(Pairs(rows) for rows in triple),
        "floats": tuple(Pairs(rows, "floats") for rows in triple),
        "mapping": {"train": Pairs(PARTS["train"]), "val": Pairs(PARTS["validation"]), "test": Pairs(PARTS["test"])},
        "four": (IMAGES[:24], LABELS[:24], IMAGES[24:], LABELS[24:]),
    }
    data = load(sources[form], label_names=NAMES)
    assert data.label_names == NAMES and data.input_shape == (3, 6, 6) and data.notes == ()
    assert data.train.inputs.dtype == (np.float32 if form == "floats" else np.uint8)
    is_the_same(data)


def test_features_and_a_source_of_one_part() -> None:
    features = torch.randn(20, 4)
    labels = torch.from_numpy(LABELS[:20])
    with pytest.warns(DataWarning, match="no test part: 3 of 20 rows are held out"):
        data = load(TensorDataset(features, labels))
    assert data.input_shape == (4,) and len(data.test) == 3 and data.notes
    rows = np.concatenate([part.inputs for part in (data.train, data.validation, data.test)])
    assert sorted(rows.tolist()) == sorted(features.tolist())
    with pytest.warns(DataWarning, match="the validation part is the test part"):
        data = load({"train": Pairs(PARTS["train"]), "validation": Pairs(PARTS["validation"])})
    assert data.test.labels.tolist() == LABELS[PARTS["validation"]].tolist()


def hugging_face(kind: str) -> Any:
    datasets = pytest.importorskip("datasets")
    name = datasets.ClassLabel(names=list(NAMES))
    features = {
        "labels": datasets.Sequence(name),
        "vector": datasets.Sequence(datasets.Value("int64")),
        "words": datasets.Sequence(datasets.Value("string")),
        "objects": datasets.Sequence(
            {"bbox": datasets.Sequence(datasets.Value("float32"), length=4), "category": name}
        ),
        "boxes": [{"area": datasets.Value("int64"), "category": name}],
    }[kind]
    parts = {}
    for part, rows in PARTS.items():
        numbers = [np.flatnonzero(row).tolist() for row in LABELS[rows]]
        column: list[Any] = numbers
        if kind == "vector":
            column = LABELS[rows].tolist()
        elif kind == "words":
            column = [[NAMES[n] for n in row] for row in numbers]
        elif kind == "objects":
            column = [{"bbox": [[0.0] * 4] * len(row), "category": row} for row in numbers]
        elif kind == "boxes":
            column = [[{"area": 1, "category": n} for n in row] for row in numbers]
        content = {"image": [Image.fromarray(x.transpose(1, 2, 0)) for x in IMAGES[rows]], kind: column}
        parts[part] = datasets.Dataset.from_dict(
            content, features=datasets.Features({"image": datasets.Image(), kind: features})
        )
    return datasets.DatasetDict(parts)


@pytest.mark.parametrize("kind", ["labels", "vector", "words", "objects", "boxes"])
def test_a_hugging_face_dataset_with_lists_of_labels(kind: str) -> None:
    data = load(hugging_face(kind))
    assert data.label_names == (("0", "1", "2") if kind == "vector" else NAMES)
    is_the_same(data)


def pictures(root: Path, form: str) -> None:
    for part, rows in PARTS.items():
        folder = root / part if form != "top.csv" else root
        (folder / "images").mkdir(parents=True, exist_ok=True)
        table: list[dict[str, Any]] = []
        for number, image, row in zip(range(30)[rows], IMAGES[rows], LABELS[rows], strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / "images" / f"{number}.png")
            names = [NAMES[n] for n in np.flatnonzero(row)]
            entry: dict[str, Any] = {"file_name": f"images/{number}.png"}
            if form == "objects":
                entry["objects"] = {"bbox": [], "categories": names}
            else:
                entry["labels"] = names if form == "jsonl" else "|".join(names)
            table.append(entry | ({"split": part} if form == "top.csv" else {}))
        if form in ("jsonl", "objects"):
            lines = "".join(json.dumps(entry) + "\n" for entry in table)
            (folder / "metadata.jsonl").write_text(lines)
        else:
            path = folder / "metadata.csv"
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(table[0]))
                if new:
                    writer.writeheader()
                writer.writerows(table)


@pytest.mark.parametrize("form", ["jsonl", "objects", "csv", "top.csv"])
def test_a_folder_with_metadata(form: str, tmp_path: Path) -> None:
    pictures(tmp_path, form)
    data = load(tmp_path if form == "csv" else f"folder:{tmp_path}", size=6)
    assert data.label_names == NAMES and len(data.validation) == 6
    is_the_same(data)
    Image.new("RGB", (6, 6)).save(tmp_path / "stray.png")
    with pytest.warns(DataWarning, match=r"without a row in the metadata are ignored \(1: 'stray\.png'"):
        load(tmp_path, size=6)


def test_a_cache_and_skipping_give_the_same_bits_as_files(tmp_path: Path) -> None:
    pictures(tmp_path / "data", "jsonl")
    lazy = load(tmp_path / "data", size=6)
    cached = [load(tmp_path / "data", size=6, cache=tmp_path / "cache") for _ in range(2)]
    for data in cached:
        assert getattr(data.train.inputs, "_mmap", None) is not None and data.train.inputs.dtype == np.uint8
        is_the_same(data)
    (tmp_path / "data" / "validation" / "images" / "20.png").write_bytes(b"torn")
    with pytest.warns(DataWarning, match=r"skipped \(1: .*20\.png"):
        data = load(tmp_path / "data", size=6, on_bad_image="skip")
    left = [row for row in range(18, 24) if row != 20]
    assert data.validation.labels.tolist() == LABELS[left].tolist()
    assert torch.equal(data.validation.batch([2]), lazy.validation.batch([3]))
    with pytest.raises(InputError, match=r"20\.png"):
        load(tmp_path / "data", size=6, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"file_name": "a.png"}', "row 1: no labels"),
        ('{"labels": []}', "has the row"),
        ('{"file_name": "../a.png", "labels": ["x"]}', "leads out of"),
        ('{"file_name": "b.png", "labels": ["x"]}', "are missing"),
        ('{"file_name": "a.png", "labels": [["x"]]}', "the labels are"),
        ('{"file_name": "a.png", "labels": ["x"], "split": "dev2"}', "the split is 'dev2'"),
        ('{"file_name": "a.png", "labels": []}', "has no label"),
        ("{", "cannot be read"),
    ],
)
def test_metadata_that_is_none_is_refused(row: str, message: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(row + "\n")
    with pytest.raises(InputError, match=message):
        load(tmp_path, size=4)


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(InputError, match="has 3 labels and 2 names"):
        load(((IMAGES, LABELS), (IMAGES, LABELS)), label_names=("a", "b"))
    with pytest.raises(InputError, match=r"labels of shape \(30,\)"):
        load(((IMAGES, LABELS[:, 0]), (IMAGES, LABELS[:, 0])))
    with pytest.raises(InputError, match="is of type Tensor"):
        load(torch.zeros(3, 4))
    with pytest.raises(InputError, match=r"the parts of .* are dev"):
        load({"dev": (IMAGES, LABELS)})
    with pytest.raises(InputError, match=r"labels \(List\)|labels \(Sequence\)"):
        load(hugging_face("labels"), column="other")


def test_bytes_give_the_model_of_their_floats() -> None:
    x = IMAGES.astype(np.float32) / np.float32(255)
    options = {"epochs": 1, "classifier_epochs": 1, "batch_size": 8, "head": HeadConfig(4, hidden=()), "device": "cpu"}
    models = []
    for images in (IMAGES, x):
        parts = ((images[rows], LABELS[rows]) for rows in PARTS.values())
        models.append(ProbMCL("convnet", config=Config(**options), width=2).fit(tuple(parts)))
    assert torch.equal(models[0].predict_proba(IMAGES), models[1].predict_proba(torch.from_numpy(x)))
    assert torch.equal(models[0].predict_proba(IMAGES), models[0].predict_proba(x))


def test_the_command_line_takes_a_folder_with_metadata_and_a_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "data", "jsonl")
    words = ["train", "--data", f"folder:{tmp_path / 'data'}", "--size", "6", "--channels", "1", "--out"]
    cache = ["--cache", str(tmp_path / "cache"), "--on-bad-image", "skip", "--device", "cpu"]
    small = ["--epochs", "1", "--classifier-epochs", "1", "--batch-size", "8", "--dim", "4", "--hidden", "8"]
    assert main([*words, str(tmp_path / "run"), *small, "--width", "2", *cache]) == 0
    trained = capsys.readouterr().out.splitlines()[0]
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0  # the run's data, size and channels
    assert capsys.readouterr().out.splitlines()[0] == trained
    assert ProbMCL.load(tmp_path / "run").input_shape == (1, 6, 6) and any((tmp_path / "cache").iterdir())
