from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from probmcl import load
from probmcl.data.assembly import FileOptions
from probmcl.data.objects import VOC_LABELS, voc
from sextet_common.errors import DataWarning, InputError


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, value, value)).save(path)


def table(folder: Path, text: str, images: int = 10) -> Path:
    for number in range(images):
        picture(folder / f"{number}.png", 20 * number)
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder


ROWS = "".join(f"{n}.png,{n % 2},{int(n > 4)}\n" for n in range(10))


def test_a_table_of_zeros_and_ones_is_read(tmp_path: Path) -> None:
    source = f"csv:{table(tmp_path, 'image,odd,large' + chr(10) + ROWS)}"
    with pytest.warns(DataWarning, match="has no test part: 2 of 10 training rows are held out") as told:
        data = load(source, size=4)
    assert [str(warning.message) for warning in told] == list(data.notes) and len(data.test) == 2
    assert data.label_names == ("odd", "large") and data.input_shape == (3, 4, 4)
    assert sum(map(len, (data.train, data.validation, data.test))) == 10
    for part in (data.train, data.validation, data.test):
        for row, path in enumerate(part.paths):
            number = int(path.stem)
            assert part.labels[row].tolist() == [number % 2, int(number > 4)]
            np.testing.assert_allclose(part.batch([row]), 20 * number / 255, atol=1e-6)


def test_lists_of_names_and_splits_are_read(tmp_path: Path) -> None:
    lines = ["image,labels,split", "0.png,cat|dog,train", "1.png,,train", "2.png,dog,validation", "3.png,cat,test"]
    data = load(f"csv:{table(tmp_path, chr(10).join(lines))}", size=4)
    assert data.label_names == ("cat", "dog")
    assert data.train.labels.tolist() == [[1, 1], [0, 0]] and data.notes == ()
    assert (data.validation.labels.tolist(), data.test.labels.tolist()) == ([[0, 1]], [[1, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,a\n0.png,1\n99.png,0\n", r"1 of 2 images are missing, first .*99\.png"),
        ("image,a\n0.png,2\n", "line 2, column 'a' is '2'; expected: 0 or 1"),
        ("image,a\n0.png\n", "line 2 has 1 values; expected: 2"),
        ("file,a\n0.png,1\n", "no column 'image'"),
        ("image,a\n", "no rows"),
        ("image,a\n../x.png,1\n", "leads out of"),
        ("image,a\n0.png,1\n0.png,0\n", "names '0.png' twice"),
        ("image,a,split\n0.png,1,dev\n", "has the split 'dev'; expected: train, validation, test"),
        ("image\n0.png\n", "has no label"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"csv:{table(tmp_path, text)}")


def test_a_missing_table_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels\.csv does not exist"):
        load(f"csv:{tmp_path}")
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(InputError, match="cannot be read"):
        load(f"csv:{tmp_path}")


def test_a_label_that_no_training_image_has_is_told(tmp_path: Path) -> None:
    lines = ["image,a,b,split", "0.png,1,0,train", "1.png,1,0,validation", "2.png,0,1,test"]
    with pytest.warns(UserWarning, match="no training image has the label 'b'"):
        load(f"csv:{table(tmp_path, chr(10).join(lines))}")


def test_features_are_standardised_by_their_training_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = 5 + 3 * random.normal(size=(40, 4)), (random.random((40, 3)) < 0.5).astype(np.uint8)
    x[:, 3] = 1.0
    arrays = {"trainval_features": x[:30], "trainval_labels": y[:30], "test_features": x[30:], "test_labels": y[30:]}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(f"npz:{tmp_path / 'a.npz'}")
    np.testing.assert_allclose(data.train.inputs.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.inputs[:, :3].std(axis=0), 1, atol=1e-6)
    assert data.test.labels.tolist() == y[30:].tolist() and data.input_shape == (4,)
    for broken, message in (
        ({name: arrays[name] for name in list(arrays)[:3]}, "has no array 'test_labels'"),
        ({**arrays, "test_features": x[30:, 0]}, "features are"),
    ):
        np.savez(tmp_path / "b.npz", **broken)
        with pytest.raises(InputError, match=message):
            load(f"npz:{tmp_path / 'b.npz'}")
    (tmp_path / "c.npz").write_bytes(b"PK")
    for name, message in (("c", "cannot be read"), ("d", "does not exist")):
        with pytest.raises(InputError, match=message):
            load(f"npz:{tmp_path / name}.npz")


def coco_folder(root: Path) -> Path:
    for part, count in (("train", 8), ("val", 3)):
        images = [{"id": 10 + n, "file_name": f"{n}.jpg", "width": 6, "height": 4} for n in range(count)]
        for n in range(count):
            picture(root / f"{part}2017" / f"{n}.jpg", 10 * n)
        boxes = [(n, 3) for n in range(count)] + [(0, 90), (0, 3)]
        annotations = [
            {"id": 1 + k, "image_id": 10 + n, "category_id": c, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
            for k, (n, c) in enumerate(boxes)
            if n != 1
        ]
        categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}]
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
    return root


@pytest.mark.filterwarnings("ignore:.*no training image has the label")
def test_cocos_layout_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    data = load(f"coco:{coco_folder(tmp_path)}", size=4)
    assert data.label_names == ("car", "toothbrush")  # by number: 3, then 90
    assert data.test.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert len(data.train) + len(data.validation) == 8 and data.train.batch([0]).shape == (1, 3, 4, 4)
    (tmp_path / "val2017" / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 3 images are missing, first .*2\.jpg"):
        load(f"coco:{tmp_path}")
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load(f"coco:{tmp_path}")
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(InputError, match=r"instances_val2017\.json is missing"):
        load(f"coco:{tmp_path}")
    with pytest.raises(InputError, match=r"no annotations/instances_train2017\.json"):
        load(f"coco:{tmp_path / 'nowhere'}")


def voc_folder(root: Path, year: str, parts: tuple[str, ...]) -> Path:
    base = root / "VOCdevkit" / f"VOC{year}"
    (base / "ImageSets" / "Main").mkdir(parents=True)
    (base / "Annotations").mkdir()
    for part in parts:
        names = [f"{part}{n}" for n in range(3)]
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for n, name in enumerate(names):
            picture(base / "JPEGImages" / f"{name}.jpg", 30 * n)
            things = [("person", 0)] if n == 0 else [("person", 1), ("cat", 0)] if n == 1 else [("dog", 1)]
            objects = "".join(f"<object><name>{x}</name><difficult>{d}</difficult></object>" for x, d in things)
            (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def seen(labels: np.ndarray) -> list[list[str]]:
    return [[VOC_LABELS[column] for column in np.flatnonzero(row)] for row in labels]


@pytest.mark.filterwarnings("ignore:.*no training image has the label")
def test_vocs_layout_is_read(tmp_path: Path) -> None:
    data = load(f"voc:{voc_folder(tmp_path, '2007', ('train', 'val', 'test'))}", size=4)
    for part in (data.train, data.validation, data.test):
        assert seen(part.labels) == [["person"], ["cat"], []]
    assert seen(voc(str(tmp_path), FileOptions(4), difficult=True).test.labels) == [
        ["person"],
        ["cat", "person"],
        ["dog"],
    ]
    other = load(f"voc:{voc_folder(tmp_path, '2012', ('train', 'val'))}@2012", size=4)
    assert {path.stem[:3] for path in other.test.paths} == {"val"} and len(other.train) == 2
    annotation = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / "val1.xml"
    annotation.write_text("<annotation><object><name>unicorn</name></object></annotation>")
    with pytest.raises(InputError, match="has an object 'unicorn'"):
        load(f"voc:{tmp_path}")
    annotation.write_text("<annotation")
    with pytest.raises(InputError, match="cannot be read"):
        load(f"voc:{tmp_path}")
    with pytest.raises(InputError, match=r"lacks train\.txt or val\.txt"):
        load(f"voc:{tmp_path}@2010")


def adp_folder(root: Path, *, splits: bool) -> Path:
    lines = ["Patch Names,E,C,E.M,E.M.S,C.D"]
    for n in range(12):
        picture(root / "img_res_1um_bicubic" / f"{n:03d}.png", 10 * n)
        lines.append(f"{n:03d}.png,{n % 2},{int(n < 6)},{n % 2},0,1")
    (root / "ADP_EncodedLabels_Release1_Flat.csv").write_text("\n".join(lines) + "\n")
    if splits:
        (root / "splits").mkdir()
        for name, rows in (("train", range(8)), ("valid", (8, 9)), ("test", (10, 11))):
            np.save(root / "splits" / f"{name}.npy", np.array(list(rows)))
    return root


@pytest.mark.filterwarnings("ignore:.*no training image has the label")
def test_adps_layout_is_read_at_every_level(tmp_path: Path) -> None:
    adp_folder(tmp_path, splits=True)
    data = load(f"adp:{tmp_path}", size=4)
    assert data.label_names == ("E", "C")
    assert [path.stem for path in data.test.paths] == ["010", "011"]
    assert data.test.labels.tolist() == [[0, 0], [1, 0]]
    for level, names in (("L2", ("E", "C", "E.M", "C.D")), ("L3", ("E", "C", "E.M", "E.M.S", "C.D"))):
        assert load(f"adp:{tmp_path}@{level}", size=4).label_names == names
    assert load(f"adp:{tmp_path}@L3Only", size=4).label_names == ("E.M.S",)
    with pytest.raises(InputError, match="the level of ADP is 'L4'; expected: L1, L2, L3, L3Only"):
        load(f"adp:{tmp_path}@L4")
    np.save(tmp_path / "splits" / "test.npy", np.array([11]))
    with pytest.warns(DataWarning, match="splits: 1 of 12 patches are in no part and not used"):
        assert [path.stem for path in load(f"adp:{tmp_path}", size=4).test.paths] == ["011"]
    np.save(tmp_path / "splits" / "test.npy", np.array([10, 12]))
    with pytest.raises(InputError, match="holds no row numbers below 12"):
        load(f"adp:{tmp_path}")


def test_adp_without_its_split_files_is_shared_out(tmp_path: Path) -> None:
    source = f"adp:{adp_folder(tmp_path, splits=False)}"
    with pytest.warns(DataWarning, match="has no test part: 2 of 12 training rows are held out"):
        data = load(source, size=4)
    assert len(data.test) == 2 and len(data.train) + len(data.validation) + len(data.test) == 12
