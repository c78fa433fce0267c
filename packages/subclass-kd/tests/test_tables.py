"""One table of images, in and out; folders with unlabelled images, own validation images and unusual depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sextet_common.errors import DataWarning, InputError
from subclass_kd import Hierarchy, SubclassSet, TrainConfig, Views, load, save_table, train_teacher
from subclass_kd.__main__ import main
from torch import nn

PETS = {"cat": ("persian", "siamese"), "dog": ("poodle",)}


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)


def folder(root: Path, parts: tuple[str, ...] = ("train", "test"), each: int = 8) -> Path:
    for part in parts:
        for class_, names in PETS.items():
            for name in names:
                for number in range(each):
                    picture(root / part / class_ / name / f"{number}.png", number)
    return root


def table(path: Path, head: str, rows: list[str]) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def files(root: Path, count: int = 24) -> list[str]:
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        picture(root / name, number)
    return names


def pixels(data: SubclassSet) -> dict[str, list[tuple[int, int]]]:
    """Return the value of each image's first pixel beside its label, by part."""
    found = {}
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        values = (part.batch(range(len(part)))[:, 0, 0, 0] * 255).round().int().tolist()
        found[name] = sorted(zip(values, part.labels.tolist(), strict=True))
    return found


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_in_any_usual_form_is_read(delimiter: str, tmp_path: Path) -> None:
    names = files(tmp_path)
    rows = []
    for number, name in enumerate(names):
        split = ("Train", "VAL", "test")[number // 8]
        class_, subclass = (("cat", ""), ("cat", "persian"), ("dog", "poodle"), ("cat", "siamese"))[number % 4]
        if number in (2, 6):
            class_ = subclass = ""
        weight = "0.5" if number == 1 else ""
        rows.append(delimiter.join([f" {name} ", f"{class_} ", f" {subclass}", split, f"p{number % 5}", weight, "x"]))
    rows.insert(3, delimiter.join([" "] * 7))
    head = delimiter.join(["\ufeffFile Name", "CLASS", " Subclass ", "Split", "Patient ID", "Weight", "notes"])
    rows[2] = rows[2].replace("Train", "")
    rows += [delimiter.join([name, "dog", "poodle", "train", "p9", "", ""]) for name in ("a.png", "b.png")]
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, 99)
    with pytest.warns(DataWarning) as said:
        data = load(table(tmp_path / "t.csv", head, rows), size=4)
    assert data.hierarchy.as_dict() == {"cat": ["persian", "siamese"], "dog": ["poodle"]}
    code = {0: -2, 1: 0, 2: 2, 3: 1}
    expected = [(number, -1 if number in (2, 6) else code[number % 4]) for number in range(24)]
    found = pixels(data)
    assert found["train"] == sorted([*expected[:8], (99, 2), (99, 2)])
    assert found["validation"] == expected[8:16] and found["test"] == expected[16:]
    assert data.train.groups is not None and data.train.groups.tolist()[:3] == ["p0", "p1", "p2"]
    assert data.train.weights is not None and data.train.weights.tolist() == [1, 0.5, *[1] * 8]
    messages = " ".join(str(each.message) for each in said)
    assert "train: images of a class alone (2: " in messages and "train: images without a label (2: " in messages


def test_a_set_of_files_is_the_same_after_writing_and_reading_its_table(tmp_path: Path) -> None:
    data = load(folder(tmp_path / "pets"), size=4).scarce(0.5, rest="unlabelled")
    save_table(data, tmp_path / "tables" / "t.csv")
    with pytest.warns(DataWarning, match="without a label"):
        again = load(f"table:{tmp_path / 'tables' / 't.csv'}", size=4)
    assert again.hierarchy.as_dict() == data.hierarchy.as_dict() and pixels(again) == pixels(data)
    for part in ("train", "validation", "test"):
        old, new = (getattr(each, part) for each in (data, again))
        assert [path.resolve() for path in new.images] == [path.resolve() for path in old.images]
        assert new.labels.tolist() == old.labels.tolist()


def test_what_discover_writes_is_a_hierarchy_and_new_subclasses(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["teacher", "--out", str(out), "--epochs", "1", "--views", "1", "--width", "2", "--device", "cpu"]) == 0
    assert main(["discover", str(out), "--most", "2"]) == 0
    found = out / "discovered.csv"
    tree = Hierarchy.of(found)
    assert set(tree.class_names) == {"even", "odd"} and tree.sizes.tolist() == [2, 2]
    data, plain = load("digits", subclasses=found), load("digits")
    assert data.hierarchy.as_dict() == {name: sorted(tree.as_dict()[name]) for name in ("even", "odd")}
    assert (data.train.labels >= 0).all() and (data.validation.labels < -1).all() and (data.test.labels < -1).all()
    for part in ("train", "validation", "test"):
        old, new = (getattr(each, part) for each in (plain, data))
        assert np.array_equal(plain.hierarchy.class_labels(old.labels), data.hierarchy.class_labels(new.labels))
    again = ["--epochs", "1", "--views", "1", "--width", "2", "--device", "cpu", "--subclasses", str(found)]
    assert main(["teacher", "--out", str(tmp_path / "finer"), *again]) == 0
    assert main(["bits", str(tmp_path / "finer")]) == 0  # the recipe names the table


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        ("image,class,Class", "0.png,a,b", "has the column class twice: 'class', 'Class'"),
        ("image,path,class", "0.png,0.png,a", "has the column image twice: 'image', 'path'"),
        ("image,kind", "0.png,a", "lacks a column 'class' among 'image', 'kind'"),
        ("image,class", "0.png,a,b", "line 2 has 3 values; expected: 2"),
        ("image,class", "none.png,a", r"line 2: .*none\.png is no file"),
        ("image,class", "7,a", "a table of numbered images goes with its data"),
        ("image,class", ",a", "line 2 names no image"),
        ("image,class,split", "0.png,a,fold1", "line 2: the split is 'fold1'; expected: train, validation or test"),
        ("image,class,weight", "0.png,a,-1", "line 2: the weight is '-1'; expected: a number >= 0"),
        ("image,class,weight", "0.png,a,heavy", "line 2: the weight is 'heavy'"),
        ("image,class,subclass", "0.png,,b", "line 2: subclass 'b' without its class"),
        ("image,class,split", "0.png,,test", "line 2: a test image without a class"),
        ("image,class", "0.png,a\n0.png,b", "line 3: image '0.png' is in line 2 too"),
        ("image,class,split", "0.png,a,train\n1.png,a,", "line 3 has no split; expected: train, validation or test"),
        ("image,class,split", "0.png,a,train\n1.png,b,test", "line 3: class 'b' is not among those of the training"),
        ("image,class,split", "0.png,a,test", "has no training image"),
        ("image,class", "0.png,", "no training image has a class"),
        ("image,class", "", "has no rows"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(head: str, row: str, message: str, tmp_path: Path) -> None:
    files(tmp_path, 2)
    with pytest.raises(InputError, match=message):
        load(table(tmp_path / "t.csv", head, [row]), size=4)


def test_an_image_of_weight_zero_changes_no_student(tmp_path: Path) -> None:
    names = files(tmp_path)
    rows = [f"{name},{'ab'[number % 2]},{('train', 'val', 'test')[number // 8]},1" for number, name in enumerate(names)]
    picture(tmp_path / "wrong.png", 250)
    head, nets = "image,class,split,weight", []
    config = TrainConfig(epochs=2, views=Views(1), device="cpu")
    for label in "ab":
        with pytest.warns(DataWarning, match="their own only ones"):
            data = load(table(tmp_path / "t.csv", head, [*rows, f"wrong.png,{label},train,0"]), size=8)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2, bias=False))
        nn.init.zeros_(network[1].weight)
        nets.append(train_teacher(network, data, config))
    assert torch.equal(nets[0][1].weight, nets[1][1].weight)


def test_subclasses_of_other_data_are_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((40, 1, 4, 4)), np.arange(40) % 4
    data = SubclassSet.of((images, labels), (images, labels), Hierarchy.from_dict({"cat": 2, "dog": 2}))
    for row, message in (
        ("99,cat,x", r"the data have no image '99'"),
        (f"{int(np.flatnonzero(data.train.labels == 2)[0])},cat,x", "class 'cat' of an image of class 'dog'"),
    ):
        rows = [row, f"{int(np.flatnonzero(data.train.labels == 3)[0])},dog,y"]
        with pytest.raises(InputError, match=message):
            load(data, subclasses=table(tmp_path / "t.csv", "image,class,subclass", rows))
    with pytest.raises(InputError, match="has the classes bird; expected: cat, dog"):
        load(data, subclasses=table(tmp_path / "t.csv", "image,class,subclass", ["0,bird,x"]))


def test_a_hierarchy_of_any_usual_table(tmp_path: Path) -> None:
    spaced = table(tmp_path / "h.csv", " Class ; SUBCLASS", ["cat ; persian", " dog;poodle", "cat;siamese"])
    assert Hierarchy.of(spaced).as_dict() == {"cat": ["persian", "siamese"], "dog": ["poodle"]}
    with pytest.raises(InputError, match="has the column class twice"):
        Hierarchy.of(table(tmp_path / "h.csv", "class,subclass,Class", ["a,b,c"]))


def test_a_table_s_subclasses_belong_to_a_hierarchy_beside_it(tmp_path: Path) -> None:
    names = files(tmp_path)
    rows = [f"{name},{'abcd'[number % 4]},{('train', 'test')[number // 16]}" for number, name in enumerate(names)]
    file = table(tmp_path / "t.csv", "path,subclass,split", rows)
    data = load(file, hierarchy={"x": ["a", "c"], "y": ["b", "d"]}, size=4)
    assert data.hierarchy.subclass_names == tuple("acbd") and data.test.labels.tolist() == [0, 2, 1, 3] * 2
    with pytest.raises(InputError, match="line 5: subclass 'd' is not among those"):
        load(file, hierarchy={"x": ["a", "c"], "y": ["b"]}, size=4)


def test_unlabelled_folders_and_images_directly_in_a_class_take_part(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for name in ("Unlabelled/a", "train/unlabeled/deep/b", "train/cat/c", "train/cat/unlabelled/d"):
        picture(root / f"{name}.png", 200)
    picture(root / "train" / "cat" / "persian" / "more" / "e.png", 201)
    picture(root / "other" / "f.png")
    with pytest.warns(DataWarning) as said:
        data = load(root, size=4)
    assert sorted(label for value, label in pixels(data)["train"] if value == 200) == [-2, -1, -1]
    assert [label for value, label in pixels(data)["validation"] if value == 200] == [-2]
    assert data.hierarchy.subclass_names == ("cat/persian", "cat/siamese", "dog/poodle")
    messages = " ".join(str(each.message) for each in said)
    for message in (
        "train: images of a class alone (2: ",
        "train: images without a label (2: ",
        "deeper folders count to their subclass (1: 'train/cat/persian/more/e.png')",
        "outside of class folders, or of the training and test folders, are ignored (1: 'other/f.png')",
    ):
        assert message in messages


def test_own_validation_images_are_the_validation_part(tmp_path: Path) -> None:
    data = load(folder(tmp_path, ("train", "valid", "test")), size=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 24, 24) and data.notes == ()
    assert isinstance(data.validation.images, tuple) and all("valid" in path.parts for path in data.validation.images)
    cached = load(tmp_path, size=4, cache=tmp_path / "cache")
    assert pixels(cached) == pixels(data)
    with pytest.raises(InputError, match=r"has the folders val(id)? and val(id)?"):
        picture(tmp_path / "val" / "cat" / "persian" / "0.png")
        load(tmp_path, size=4)


def test_a_subclass_of_test_images_alone_counts_by_its_class_and_an_unknown_class_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    picture(root / "test" / "cat" / "manx" / "0.png", 77)
    with pytest.warns(DataWarning, match=r"without training images count by their class \(cat/manx; 1: .*manx/0\.png"):
        data = load(root, size=4)
    assert (77, -2) in pixels(data)["test"]
    picture(root / "test" / "bird" / "owl" / "0.png")
    with pytest.raises(InputError, match=r"owl/0\.png: class 'bird' is not among those of the training images"):
        load(root, size=4)


def test_a_class_without_subclass_folders_is_its_own_only_subclass(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for part in ("train", "test"):
        for number in range(4):
            picture(root / part / "fox" / f"{number}.png", 50)
    with pytest.warns(DataWarning, match=r"classes without subclasses are their own only ones \(fox\)"):
        data = load(root, size=4)
    assert data.hierarchy.as_dict()["fox"] == ["fox"] and np.bincount(data.test.labels).tolist() == [8, 8, 8, 4]
