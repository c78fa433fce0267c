"""Conventions of image folders: listings compared with torchvision's and Hugging Face's, and everything unclear."""

from __future__ import annotations

import csv
import gc
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from sextet_common import data
from sextet_common.errors import InputError
from sextet_common.image_folders import scan

UNUSED = "images without a label or outside of the training and test sets are ignored"


def write(folder: Path, *names: str) -> Path:
    """Create empty files; a scan opens none of them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(root: Path, paths: tuple[str, ...]) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in paths]


def classes_of(paths: tuple[str, ...], labels: list[int], names: tuple[str, ...]) -> dict[str, str]:
    return {os.path.basename(path): names[label] for path, label in zip(paths, labels, strict=True)}


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "TEST", "Val"])
@pytest.mark.parametrize("train", ["train", "Train", "TRAIN"])
def test_usual_names_of_splits_in_any_letter_case(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path, f"{train}/b/2.PNG", f"{train}/a/1.jpg", f"{test}/a/3.gif", f"{test}/b/4.tif")
    found = scan(tmp_path)
    assert listed(tmp_path, found.train) == [f"{train}/a/1.jpg", f"{train}/b/2.PNG"]
    assert listed(tmp_path, found.test) == [f"{test}/a/3.gif", f"{test}/b/4.tif"]
    assert found.train_labels.tolist() == found.test_labels.tolist() == [0, 1]
    assert found.classes == ("a", "b") and found.notes == ()


def test_a_training_folder_alone_has_no_test_set(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/2.png")
    found = scan(tmp_path)
    assert found.classes == ("a", "b") and len(found.train) == 2 and found.test == () and len(found.test_labels) == 0


def test_of_two_test_sets_the_first_usual_name_is_used_and_the_other_said(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "val/a/2.png", "test/a/3.png", "notes/x.png", "README.md")
    found = scan(str(tmp_path))
    assert listed(tmp_path, found.test) == ["test/a/3.png"]
    assert found.notes == (
        f"{tmp_path}: files that are not images are ignored (1: 'README.md')",
        f"{tmp_path}: {UNUSED} (2: 'notes/x.png', 'val/a/2.png')",
    )


def test_a_test_folder_without_classes_leaves_the_place_to_the_validation_set(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "val/a/2.png", "test/3.png", "test/4.png")
    found = scan(tmp_path)
    assert listed(tmp_path, found.test) == ["val/a/2.png"] and "(2: 'test/3.png', 'test/4.png')" in found.notes[0]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path, "bus/1.png", "car/2.png", "train/3.png")
    assert scan(tmp_path).classes == ("bus", "car", "train")


def test_what_the_system_leaves_is_ignored_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/2.png", "__MACOSX/a/._1.png", ".git/x", "a/._1.png", "a/Thumbs.db", "b/desktop.ini")
    write(tmp_path, ".DS_Store", "a/notes.txt", "b/2.txt", "b/3.txt", "b/4.txt", "loose.png")
    os.symlink(tmp_path / "nowhere", tmp_path / "a" / "gone.png")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    found = scan(tmp_path)
    assert listed(tmp_path, found.train) == ["a/1.png", "b/2.png"]
    assert {note.removeprefix(f"{tmp_path}: ") for note in found.notes} == {
        "hidden and system files are ignored (6: '.DS_Store', '.git', '__MACOSX' and 3 more)",
        f"{UNUSED} (1: 'loose.png')",
        "files that are not images are ignored (4: 'a/notes.txt', 'b/2.txt', 'b/3.txt' and 1 more)",
        "dangling links and special files are ignored (2: 'a/gone.png', 'b/pipe.png')",
    }


def test_nested_folders_are_listed_as_by_torchvision(tmp_path: Path) -> None:
    folder = pytest.importorskip("torchvision.datasets").ImageFolder
    names = ["z/1.png", "z/a/2.png", "z/a-b/3.png", "z/a/b/10.png", "z/a/b/9.png", "z/a.png", "Z/1.jpg", "10/x.bmp"]
    write(tmp_path, *names, "9/x/y/z/1.webp", "9/x/1.TIF", "é/1.png")
    outside = write(tmp_path / "elsewhere" / "set", "in/5.png").parent
    root = tmp_path / "root"
    root.mkdir()
    for name in ("z", "Z", "10", "9", "é"):
        (tmp_path / name).rename(root / name)
    os.symlink(outside / "set", root / "z" / "linked")
    found, theirs = scan(root), folder(root)
    assert found.classes == tuple(theirs.classes)
    assert list(zip(found.train, found.train_labels.tolist(), strict=True)) == theirs.samples


@pytest.mark.parametrize("target", [".", "..", "../..", "loop"])
def test_loops_of_links_end(tmp_path: Path, target: str) -> None:
    write(tmp_path, "a/1.png", "a/deep/2.png", "b/3.png")
    os.symlink(target, tmp_path / "a" / "deep" / "loop")
    found = scan(tmp_path)
    assert {"a/1.png", "a/deep/2.png", "b/3.png"} <= set(listed(tmp_path, found.train)) and found.notes


def test_tiny_imagenet_is_read_as_distributed(tmp_path: Path) -> None:
    wnids = ["n02124075", "n01443537", "n04067472"]
    for wnid in wnids:
        write(tmp_path, f"train/{wnid}/{wnid}_boxes.txt", *(f"train/{wnid}/images/{wnid}_{k}.JPEG" for k in (0, 10, 9)))
    truth = {f"val_{number}.JPEG": wnids[number % 3] for number in range(7)}
    write(tmp_path, *(f"val/images/{name}" for name in truth), *(f"test/images/test_{k}.JPEG" for k in range(4)))
    lines = [f"{name}\t{wnid}\t0\t32\t44\t62" for name, wnid in truth.items()]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "wnids.txt").write_text("\n".join(wnids))
    write(tmp_path, "words.txt")
    found = scan(tmp_path)
    assert found.classes == tuple(sorted(wnids)) and len(found.train) == 9
    assert all(f"/{found.classes[label]}/" in path for path, label in zip(found.train, found.train_labels, strict=True))
    assert classes_of(found.test, found.test_labels.tolist(), found.classes) == truth
    said = " ".join(found.notes)
    assert "(5: 'wnids.txt', 'words.txt', 'train/n01443537/n01443537_boxes.txt' and 2 more)" in said
    assert "(4: 'test/images/test_0.JPEG', 'test/images/test_1.JPEG', 'test/images/test_2.JPEG' and 1 more)" in said


def as_metadata(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


FORMS = pytest.mark.parametrize("form", ["csv", "jsonl"])


@FORMS
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # of datasets
@pytest.mark.parametrize("labels", [["cat", "dog", "cat"], [10, 9, 10], ["x, y", 'q"', "x, y"]])
def test_metadata_is_read_as_by_hugging_face(
    tmp_path: Path, form: str, labels: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    for part in ("train", "test"):
        names = ["b.png", "sub/a.png", "c.png"]
        as_metadata(
            tmp_path / "set" / part / f"metadata.{form}",
            [{"file_name": name, "label": label, "text": "x"} for name, label in zip(names, labels, strict=True)],
        )
        for name in names:
            (tmp_path / "set" / part / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (2, 2)).save(tmp_path / "set" / part / name)
    found = scan(tmp_path / "set")
    options = {"data_dir": str(tmp_path / "set"), "cache_dir": str(tmp_path / "cache")}
    theirs = datasets.load_dataset("imagefolder", **options).cast_column("image", datasets.Image(decode=False))
    for part, paths, numbers in (("train", found.train, found.train_labels), ("test", found.test, found.test_labels)):
        assert [os.path.realpath(row["image"]["path"]) for row in theirs[part]] == [os.path.realpath(p) for p in paths]
        assert [found.classes[number] for number in numbers] == [str(row["label"]) for row in theirs[part]]
    gc.collect()  # files that datasets leaves open, before the next test
    assert found.classes == tuple(map(str, sorted(set(labels)))) and found.notes == ()  # 9 before 10


@FORMS
def test_metadata_at_the_top(tmp_path: Path, form: str) -> None:
    write(tmp_path, "train/1.png", "train/2.png", "Val/3.png", "train/4.png")
    rows = [{"file_name": f"{name}.png", "category": k % 2} for k, name in enumerate(("train/2", "train/1", "Val/3"))]
    as_metadata(tmp_path / f"Metadata.{form}", rows)
    found = scan(tmp_path)
    assert listed(tmp_path, found.train) == ["train/2.png", "train/1.png"] and found.train_labels.tolist() == [0, 1]
    assert listed(tmp_path, found.test) == ["Val/3.png"] and found.classes == ("0", "1")
    assert found.notes == (f"{tmp_path}: {UNUSED} (1: 'train/4.png')",)


@FORMS
def test_metadata_beside_images_without_splits(tmp_path: Path, form: str) -> None:
    write(tmp_path, *(f"images/{k}.png" for k in range(4)))
    rows = [{"file_name": f"images/{k}.png", "class": "ab"[k % 2]} for k in range(4)]
    as_metadata(tmp_path / f"metadata.{form}", rows)
    found = scan(tmp_path)
    assert len(found.train) == 4 and found.test == () and found.train_labels.tolist() == [0, 1, 0, 1]


def test_numbers_in_csv_are_sorted_as_numbers(tmp_path: Path) -> None:
    write(tmp_path, *(f"{k}.png" for k in range(3)))
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbffile_name,label\r\n0.png,1\r\n1.png, 10 \r\n2.png,2\r\n")
    found = scan(tmp_path)
    assert found.classes == ("1", "2", "10") and found.train_labels.tolist() == [0, 2, 1]


def test_a_test_set_with_hidden_labels_is_said(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "train/2.png", "test/1.png", "validation/1.png")
    as_metadata(tmp_path / "train/metadata.jsonl", [{"file_name": f"{k}.png", "label": k} for k in (1, 2)])
    as_metadata(tmp_path / "test/metadata.jsonl", [{"file_name": "1.png", "label": -1}])
    as_metadata(tmp_path / "validation/metadata.jsonl", [{"file_name": "1.png", "label": 2}])
    found = scan(tmp_path)
    assert listed(tmp_path, found.test) == ["validation/1.png"] and found.test_labels.tolist() == [1]
    assert "(1: 'test/1.png')" in found.notes[0]


def test_captions_leave_the_class_folders_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    as_metadata(tmp_path / "metadata.csv", [{"file_name": "a/1.png", "text": "a photograph"}])
    found = scan(tmp_path)
    assert (
        found.classes == ("a", "b") and "without a column of labels are ignored (1: 'metadata.csv')" in found.notes[0]
    )


ROW = {"file_name": "1.png", "label": "a"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {"file_name": "2.png", "label": "b"}], r"metadata\.jsonl, row 2: '2\.png' is not an image in"),
        ([ROW | {"file_name": "../1.png"}], r"row 1: '\.\./1\.png' is not an image in .*; expected: the relative path"),
        ([ROW | {"file_name": "sub/../1.png"}], "is not an image in"),
        ([ROW | {"file_name": "/etc/hosts"}], "row 1: '/etc/hosts' is not an image in"),
        ([ROW | {"file_name": "..\\1.png"}], "is not an image in"),
        ([ROW | {"file_name": "file:///etc/hosts"}], "is not an image in"),
        ([ROW | {"file_name": ".hidden.png"}], "is not an image in"),
        ([ROW | {"file_name": "a\0.png"}], "is not an image in"),
        ([ROW | {"file_name": None}], "row 1: None is not an image in"),
        ([ROW | {"file_name": ""}], "is not an image in"),
        ([ROW | {"file_name": ["1.png"]}], "is not an image in"),
        ([ROW, ROW], r"row 2: '1\.png' has two rows"),
        ([ROW | {"label": None}], r"row 1: '1\.png' has the label None; expected: a class number or name"),
        ([ROW | {"label": " "}], r"row 1: '1\.png' has the label ' '"),
        ([ROW | {"label": ["a", "b"]}], r"has the label \['a', 'b'\]; expected: a class number or name"),
        ([ROW | {"label": 0.5}], r"has the label 0\.5"),
        (
            [ROW | {"split": "test"}],
            r"has .*'split'; expected: columns file_name and label, in folders train",
        ),
        ([{"file_name": "1.png", "text": "x"}], r"has 'file_name', 'text'; expected: columns file_name and label"),
        ([{"image": "1.png", "label": "x"}], "has 'image', 'label'; expected: columns file_name and label"),
        ([{"image_file_name": "1.png", "label": "x"}], "has 'image_file_name', 'label'"),
        ([["1.png", "a"]], "a line is not a JSON object; expected: metadata.csv with a header"),
    ],
)
def test_metadata_that_is_unclear_is_refused(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    write(tmp_path / "set", "1.png", "sub/3.png", ".hidden.png")
    write(tmp_path, "1.png")
    as_metadata(tmp_path / "set" / "metadata.jsonl", rows)
    with pytest.raises(InputError, match=message):
        scan(tmp_path / "set")


def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(InputError, match=match):
            scan(tmp_path)

    write(tmp_path, "1.png")
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 \x15\xa0")
    fails(r"metadata\.parquet cannot be read: .*; expected: metadata\.csv with a header, or metadata\.jsonl with one")
    (tmp_path / "metadata.parquet").unlink()
    as_metadata(tmp_path / "metadata.csv", [ROW])
    as_metadata(tmp_path / "metadata.jsonl", [ROW])
    fails(r"metadata\.jsonl, row 1: '1\.png' has two rows")
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe\0")
    fails(r"metadata\.csv cannot be read")
    (tmp_path / "metadata.csv").write_text("file_name,label\n")
    fails(r"metadata\.csv has no rows; expected: columns file_name and label")
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata.jsonl")
    fails(r"metadata\.jsonl cannot be read")
    (tmp_path / "metadata.jsonl").write_text("[" * 100_000)
    fails(r"metadata\.jsonl cannot be read")


def test_metadata_inside_a_class_is_refused_as_the_path_is_one_folder_too_high(tmp_path: Path) -> None:
    write(tmp_path, "set/1.png")
    as_metadata(tmp_path / "set" / "metadata.csv", [ROW])
    with pytest.raises(
        InputError, match=r"set/metadata\.csv is not at the top of the data; expected: .*set as the data"
    ):
        scan(tmp_path)
    assert scan(tmp_path / "set").classes == ("a",)


def test_folders_that_are_unclear_are_refused(tmp_path: Path) -> None:
    def fails(folder: str, match: str) -> None:
        with pytest.raises(InputError, match=match):
            scan(tmp_path / folder)

    write(tmp_path, "a/training/x/1.png", "a/test/x/1.png")
    fails("a", "has no training folder beside .*test; expected: a folder named train")
    write(tmp_path, "b/val/x/1.png", "b/test/x/1.png")
    fails("b", "has no training folder beside .*test; expected: a folder named train")
    write(tmp_path, "c/test/x/1.png", "c/other/x/1.png")
    fails("c", "has no training folder beside .*test")
    write(tmp_path, "d/train/x/1.png", "d/train/y/1.png", "d/test/x/1.png")
    fails("d", "class 'y' is not in both .*train and .*test")
    write(tmp_path, "e/train/x/1.png", "e/test/X/1.png")
    fails("e", "class 'X' is not in both")
    write(tmp_path, "f/train/1.png")
    fails("f", "train has no class folders")
    write(tmp_path, "g/x/1.png", "g/y/notes.txt")
    fails("g", r"y has no image; expected: at least one of \.png")
    write(tmp_path, "h")
    fails("h", "h is not a folder")
    write(tmp_path, "i/1.png")
    fails("i", "i has no class folders")


def test_file_names_that_are_no_text_are_shown_harmlessly(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/\x1b]0;x\a.txt")
    open(os.fsencode(tmp_path) + b"/a/\xff.png", "wb").close()
    found = scan(tmp_path)
    assert len(found.train) == 2 and found.notes[0].isprintable()


@pytest.mark.filterwarnings("ignore::sextet_common.errors.DataWarning")
def test_a_class_whose_files_are_all_skipped_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png")
    for name in ("train/a/1.png", "test/a/3.png", "test/b/4.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"2\.png is not an image file that can be read"):
        data.load(f"folder:{tmp_path}")
    with pytest.raises(InputError, match="class 'b' has no training image"):
        data.load(f"folder:{tmp_path}", on_bad_image="skip")
    Image.new("RGB", (2, 2), "red").save(tmp_path / "train/b/2.png")
    (tmp_path / "test/a/3.png").write_bytes(b"")
    found = data.load(f"folder:{tmp_path}", on_bad_image="skip")
    assert found.train_labels.tolist() == [0, 1] and found.test_labels.tolist() == [1]
    assert "skipped (1: " in found.notes[0] and "3.png" in found.notes[0]
