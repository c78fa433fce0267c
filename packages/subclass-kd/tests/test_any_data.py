"""Data from outside: folders with every option, datasets of torch and Hugging Face, arrays and tensors, hierarchies."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sextet_common.errors import DataWarning, InputError
from subclass_kd import Hierarchy, SubclassSet, TrainConfig, Views, build, load, predict, train_teacher
from subclass_kd.__main__ import main
from torch.utils.data import Dataset, TensorDataset

FINE = ("ape", "bat", "cat", "dog")
COARSE = {"ape": "wild", "bat": "wild", "cat": "tame", "dog": "tame"}
LABELS = np.arange(40) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 6), dtype=np.uint8)


def is_the_same(data: SubclassSet, classes: list[int], images: np.ndarray = IMAGES) -> None:
    """Compare all images of a set with the given ones, byte by byte, and each one's subclass and class."""
    seen: dict[bytes, tuple[int, int]] = {}
    for part in (data.train, data.validation, data.test):
        batch = (part.batch(range(len(part))) * 255).round().byte().numpy()
        for image, label in zip(batch, part.labels.tolist(), strict=True):
            seen[image.tobytes()] = label, int(data.hierarchy.class_of[label])
    expected = {x.tobytes(): (int(y), classes[int(y)]) for x, y in zip(images, LABELS, strict=True)}
    assert seen == expected


def pictures(root: Path, parts: tuple[str, ...] = ("train", "test"), suffix: str = ".png") -> None:
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        name = FINE[label]
        folder = root / parts[number // 20] / COARSE[name] / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:02}{suffix}")


class Triples(Dataset[Any]):
    def __init__(self, rows: range, within: bool = False) -> None:
        self.rows, self.within = rows, within

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any, Any]:
        number = self.rows[row]
        label = int(LABELS[number])
        image = Image.fromarray(IMAGES[number].transpose(1, 2, 0))
        return image, torch.tensor(1 - label // 2), np.int64(label % 2 if self.within else label)


@pytest.mark.filterwarnings("ignore:.*has no test folder")  # beside those that are looked for
@pytest.mark.parametrize("test_name", ["test", "val", "Validation"])
def test_folders_lazily_from_a_cache_and_skipping_give_the_same_bits(test_name: str, tmp_path: Path) -> None:
    pictures(tmp_path / "data", ("train", test_name))
    said = [] if test_name == "test" else ["has no test folder: that of the validation images is the test part"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lazy = load(f"folder:{tmp_path / 'data'}", size=6)
    assert [str(each.message).partition("data ")[2] for each in caught] == said and len(lazy.notes) == len(said)
    assert lazy.hierarchy.class_names == ("tame", "wild")
    (tmp_path / "data" / "train" / "tame" / "cat" / "zz.png").write_bytes(b"torn")
    with pytest.warns(DataWarning, match=r"cannot be read are skipped \(1: .*zz\.png"):
        skipped = load(tmp_path / "data", size=6, on_bad_image="skip")
    with pytest.warns(DataWarning, match=r"skipped \(1: "):
        cached = load(tmp_path / "data", size=6, on_bad_image="skip", cache=tmp_path / "cache")
    assert getattr(cached.train.images, "_mmap", None) is not None and cached.train.index is not None
    with pytest.raises(InputError, match=r"zz\.png"):
        load(tmp_path / "data", size=6, cache=tmp_path / "cache")
    for data in (skipped, cached):
        assert data.test.images.dtype == np.uint8
        for part in ("train", "validation", "test"):
            rows, again = getattr(lazy, part), getattr(data, part)
            assert len(rows) >= len(again)
            if part == "test":
                assert torch.equal(rows.batch(range(len(rows))), again.batch(range(len(again))))
    assert skipped.train.fingerprint() == cached.train.fingerprint() != lazy.train.fingerprint()
    assert torch.equal(skipped.train.batch([3, 0]), cached.train.batch([3, 0]))
    assert np.array_equal(skipped.scarce(0.5).train.labels, cached.scarce(0.5).train.labels)
    assert torch.equal(skipped.scarce(0.5).train.batch([1]), cached.scarce(0.5).train.batch([1]))


def test_every_image_of_a_folder_has_the_labels_of_its_folders(tmp_path: Path) -> None:
    pictures(tmp_path)
    data = load(tmp_path, size=6)
    order = [data.hierarchy.subclass_names.index(f"{COARSE[name]}/{name}") for name in FINE]
    classes = [["tame", "wild"].index(COARSE[name]) for name in FINE]
    relabelled = {x.tobytes(): order[y] for x, y in zip(IMAGES, LABELS, strict=True)}
    for part in (data.train, data.validation, data.test):
        batch = (part.batch(range(len(part))) * 255).round().byte().numpy()
        assert [relabelled[x.tobytes()] for x in batch] == part.labels.tolist()
    assert [int(data.hierarchy.class_of[label]) for label in order] == classes


def test_images_beside_subclass_folders_have_a_class_and_deeper_folders_belong_to_them(tmp_path: Path) -> None:
    pictures(tmp_path)
    Image.new("RGB", (6, 6)).save(tmp_path / "train" / "tame" / "stray.png")
    deep = tmp_path / "train" / "tame" / "cat" / "more"
    deep.mkdir()
    Image.new("RGB", (6, 6), (9, 9, 9)).save(deep / "a.png")
    with pytest.warns(DataWarning) as said:
        data = load(tmp_path, size=6)
    assert len(data.train) + len(data.validation) == 22
    assert (np.concatenate([data.train.labels, data.validation.labels]) == -2).sum() == 1
    messages = " ".join(str(each.message) for each in said)
    assert "train/tame/stray.png" in messages and "deeper folders count to their subclass (1: " in messages


def test_16_bit_gray_files_are_scaled_and_one_channel_is_kept(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 36).reshape(6, 6).astype(np.uint16)
    for part in ("train", "test"):
        for name in ("x/a", "x/b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.fromarray(values).save(tmp_path / part / name / f"{number}.png")
    data = load(tmp_path, size=6, channels=1)
    assert data.input_shape == (1, 6, 6)
    assert torch.allclose(data.test.batch([0])[0, 0].double(), torch.from_numpy(values / 65535), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("within", [False, True])
def test_a_torch_dataset_of_images_classes_and_subclasses(within: bool) -> None:
    data = load((Triples(range(28), within), Triples(range(28, 40), within)))
    assert data.hierarchy.class_names == ("0", "1") and data.train.images.dtype == np.uint8
    if within:
        assert data.hierarchy.subclass_names == ("0/0", "0/1", "1/0", "1/1")
        assert np.bincount(data.test.labels).tolist() == [3] * 4
    else:
        assert data.hierarchy.subclass_names == ("0", "1", "2", "3")
        is_the_same(data, [1, 1, 0, 0])


def test_one_part_gives_a_fifth_of_every_subclass_to_the_test_part() -> None:
    with pytest.warns(DataWarning, match="8 of 40 images, a fifth of every class, are held out"):
        data = load(Triples(range(40)))
    assert np.bincount(data.test.labels).tolist() == [2] * 4 and data.notes
    is_the_same(data, [1, 1, 0, 0])


@pytest.mark.parametrize("form", ["tensors", "tuple", "arrays", "dataset", "mapping", "triple"])
def test_arrays_and_tensors_with_a_hierarchy_or_two_labels(form: str) -> None:
    tree = {"0": "wild", "1": "wild", "2": "tame", "3": "tame"}
    x, y = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    if form == "triple":
        data = load(((x[:28], y[:28] // 2, y[:28]), (x[28:], y[28:] // 2, y[28:])))
    else:
        sources: dict[str, Any] = {
            "tensors": (x[:28], y[:28], x[28:], y[28:]),
            "tuple": ((x[:28], y[:28]), (x[28:], y[28:])),
            "arrays": (IMAGES[:28], LABELS[:28], IMAGES[28:], LABELS[28:]),
            "dataset": (TensorDataset(x[:28], y[:28]), TensorDataset(x[28:], y[28:])),
            "mapping": {"train": (IMAGES[:28], LABELS[:28]), "test": (IMAGES[28:], LABELS[28:])},
        }
        data = load(sources[form], hierarchy=tree)
        assert data.hierarchy.class_names == ("wild", "tame")
    is_the_same(data, [0, 0, 1, 1])


def hugging_face(rows: slice, names: dict[str, list[str] | None]) -> Any:
    datasets = pytest.importorskip("datasets")
    columns = {"fine_label": LABELS[rows], "coarse_label": 1 - LABELS[rows] // 2, "other": LABELS[rows] // 2}
    features = {"img": datasets.Image()}
    content: dict[str, Any] = {"img": [Image.fromarray(x.transpose(1, 2, 0)) for x in IMAGES[rows]]}
    for column, of in names.items():
        features[column] = datasets.Value("string") if of is None else datasets.ClassLabel(names=of)
        values = columns[column].tolist()
        content[column] = [f"n{value}" for value in values] if of is None else values
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


TWO: dict[str, list[str] | None] = {"fine_label": list(FINE), "coarse_label": ["tame", "wild"]}


def test_a_hugging_face_dataset_with_two_label_columns() -> None:
    datasets = pytest.importorskip("datasets")
    both = {"train": hugging_face(slice(0, 28), TWO), "test": hugging_face(slice(28, 40), TWO)}
    for source in (datasets.DatasetDict(both), (both["train"], both["test"])):
        data = load(source)
        assert data.hierarchy.as_dict() == {"tame": ["cat", "dog"], "wild": ["ape", "bat"]}
        assert data.hierarchy.subclass_names == FINE
        is_the_same(data, [1, 1, 0, 0])
    again = load(datasets.DatasetDict(both), columns=("coarse_label", "fine_label"))
    assert again.hierarchy.subclass_names == FINE


def test_a_missing_label_of_a_hugging_face_dataset_is_not_the_last_class() -> None:
    part = hugging_face(slice(0, 28), TWO)
    part = part.map(lambda row, number: {"coarse_label": -1 if number == 3 else row["coarse_label"]}, with_indices=True)
    with pytest.raises(InputError, match=r"with the names tame, wild is -1; expected: 0 to 1; SubclassSet\.of and"):
        load((part, hugging_face(slice(28, 40), TWO)))


def test_columns_of_a_hugging_face_dataset_are_chosen_or_asked_for() -> None:
    three = TWO | {"other": ["yes", "no"]}
    both = hugging_face(slice(0, 28), three), hugging_face(slice(28, 40), three)
    with pytest.raises(InputError, match=r"coarse_label \(ClassLabel\).*expected: columns="):
        load(both)
    data = load(both, columns=("other", "fine_label"))
    assert data.hierarchy.as_dict() == {"yes": ["ape", "bat"], "no": ["cat", "dog"]}
    with pytest.raises(InputError, match="has no column 'colour'"):
        load(both, columns=("colour", "fine_label"))
    words: dict[str, list[str] | None] = {"fine_label": None, "coarse_label": None}
    named = load(
        (hugging_face(slice(0, 28), words), hugging_face(slice(28, 40), words)), columns=("coarse_label", "fine_label")
    )
    assert named.hierarchy.as_dict() == {"n0": ["n2", "n3"], "n1": ["n0", "n1"]}


def test_hierarchies_in_all_forms(tmp_path: Path) -> None:
    lists = {"wild": ["ape", "bat"], "tame": ["cat", "dog"]}
    (tmp_path / "a.json").write_text(json.dumps(COARSE))
    (tmp_path / "b.json").write_text(json.dumps(lists))
    (tmp_path / "c.csv").write_text("subclass,class\n" + "".join(f"{s},{c}\n" for s, c in COARSE.items()))
    files = (tmp_path / name for name in ("a.json", "b.json", "c.csv"))
    for form in (COARSE, lists, Hierarchy.from_dict(lists), *files):
        assert Hierarchy.of(form).as_dict() == lists
    other = Hierarchy.of(lists).ordered(("dog", "ape", "cat", "bat"))
    assert other.subclass_names == ("dog", "ape", "cat", "bat") and other.class_of.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "holds no JSON object"),
        ("{", "cannot be read"),
        ('{"a": ["x"], "b": "y"}', r"gives 'a' the value \['x'\], and others a name"),
        ('{"a": null}', "the subclasses of class 'a' are None"),
        ('{"a": ["x"], "b": ["x"]}', "x"),
    ],
)
def test_files_that_hold_no_hierarchy_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Hierarchy.of(tmp_path / "h.json")


def test_what_does_not_fit_is_refused() -> None:
    pair = (IMAGES[:28], LABELS[:28]), (IMAGES[28:], LABELS[28:])
    with pytest.raises(InputError, match=r"have one level; expected: a hierarchy beside it"):
        load(pair)
    with pytest.raises(InputError, match="subclass '3' is not in the hierarchy"):
        load(pair, hierarchy={"0": "a", "1": "a", "2": "b"})
    with pytest.raises(InputError, match="subclass '4' is not in the data"):
        load(pair, hierarchy={str(number): "a" for number in range(5)})
    with pytest.raises(InputError, match="the test data: subclass 2 of class 0 has no training image"):
        few = LABELS[:28] < 3
        load(((IMAGES[:28][few], LABELS[:28][few] // 2, LABELS[:28][few]), (IMAGES[28:], LABELS[28:] * 0, LABELS[28:])))
    with pytest.raises(InputError, match=r"is 1\.5; expected: a whole number or a name"):
        load(((IMAGES, LABELS // 2, LABELS + 1.5), (IMAGES, LABELS // 2, LABELS)))


def test_bytes_stay_bytes_and_give_the_weights_of_their_floats() -> None:
    tree = Hierarchy(np.array([0, 0, 1, 1]), FINE, ("wild", "tame"))
    bytes_ = SubclassSet.of((IMAGES, LABELS), (IMAGES, LABELS), tree)
    x = IMAGES.astype(np.float32) / np.float32(255)
    floats = SubclassSet.of((x, LABELS), (x, LABELS), tree)
    assert bytes_.train.images.dtype == np.uint8 and bytes_.train.batch([0]).dtype == torch.float32
    assert torch.equal(bytes_.train.batch(range(9)), floats.train.batch(range(9)))
    config = TrainConfig(epochs=2, batch_size=8, views=Views(2), device="cpu")
    one, two = (train_teacher(build("convnet", (3, 6, 6), 4, width=2), data, config) for data in (bytes_, floats))
    assert torch.equal(predict(one, bytes_.test), predict(two, floats.test))


def test_a_memory_mapped_array_stays_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tree = Hierarchy(np.array([0, 0, 1, 1]), FINE, ("wild", "tame"))
    data, plain = (SubclassSet.of((x, LABELS), (x, LABELS), tree) for x in (mapped, IMAGES))
    assert data.train.images is mapped or data.train.images.base is not None
    for part in ("train", "validation", "test"):
        a, b = getattr(data, part), getattr(plain, part)
        assert torch.equal(a.batch(range(len(a))), b.batch(range(len(b)))) and a.fingerprint() == b.fingerprint()


def test_the_command_line_takes_a_hierarchy_a_cache_and_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = tmp_path / "one" / ("train", "test")[number // 20] / FINE[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:02}.png")
    (tmp_path / "h.json").write_text(json.dumps(COARSE))
    pictures(tmp_path / "two")
    options = ["--size", "6", "--cache", str(tmp_path / "cache"), "--on-bad-image", "skip"]
    assert main(["bits", "--data", str(tmp_path / "two"), *options]) == 0
    assert (
        main(["bits", "--data", f"folder:{tmp_path / 'one'}", "--hierarchy", str(tmp_path / "h.json"), *options]) == 0
    )
    first, second = capsys.readouterr().out.splitlines()
    # Two subclasses of equal size in each class.
    assert first == second and first.startswith("label entropy: 1.0000 bits")
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2
