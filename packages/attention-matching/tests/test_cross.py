"""Evaluations side by side: their rows, tables and pictures."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
import torch
from attention_matching.evaluation import cross, soft_labels
from attention_matching.evaluation.accuracy import Evaluation
from attention_matching.evaluation.config import EvaluateConfig
from attention_matching.evaluation.cross import CrossTable, compare, cross_architecture
from attention_matching.evaluation.evaluate import evaluate, evaluate_random_real, evaluate_whole
from attention_matching.evaluation.learned_labels import learned_labels_from
from attention_matching.evaluation.soft_labels import view_labels_from
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import herding, random_real
from PIL import Image
from sextet_common import data
from sextet_common.errors import InputError

QUICK = EvaluateConfig(networks=2, epochs=3, width=8)
TABLE = CrossTable(
    {"convnet": Evaluation((0.9, 0.8)), "vit": Evaluation((0.5, 0.5))},
    {"convnet": Evaluation((0.6, 0.7)), "vit": Evaluation((0.55, 0.55))},
)


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits")


def test_the_rows_are_the_evaluations_by_themselves(digits: data.ImageSet) -> None:
    """The real images go through the set's own preprocessing."""
    whitened = Preprocessing.fit(digits, "zca")
    training = herding(digits, 2, whitened)
    rows = compare(training, digits, QUICK, whole=True, whole_epochs=1)
    assert list(rows) == ["random real", "distilled", "whole set"]
    assert rows["distilled"] == evaluate(training, digits, QUICK)
    assert rows["random real"] == evaluate_random_real(digits, 2, QUICK, preprocessing=whitened)
    longer = dataclasses.replace(QUICK, epochs=1)
    assert rows["whole set"] == evaluate_whole(digits, longer, preprocessing=whitened)
    assert list(compare(training, digits, QUICK, random_real=False)) == ["distilled"]


@pytest.mark.parametrize("by", ["teacher", "views", "learning"])
def test_random_real_images_are_labelled_as_the_set_is(
    by: str, digits: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(QUICK, networks=1, labels="views" if by == "views" else "soft")
    training = herding(digits, 1)
    if by == "learning":
        training = learned_labels_from(training, digits, config, networks=1)
    if by == "views":
        training = view_labels_from(training, digits, dataclasses.replace(config, epochs=1), views=3)
    labelled = []

    def recording(images, ipc, settings, out, *, preprocessing, label):  # type: ignore[no-untyped-def]
        labelled.append(label(random_real(digits, 1, preprocessing=preprocessing)))
        return Evaluation((0.5,))

    monkeypatch.setattr(cross, "evaluate_random_real", recording)
    compare(training, digits, config, whole_epochs=1)
    [real] = labelled
    assert (real.soft_labels is None) == (by == "views")
    assert real.meta.get("soft_labels", {}).get("by") == ("learning" if by == "learning" else None)
    assert by != "views" or real.view_labels.views == 3


def test_finished_rows_are_not_trained_again_and_other_settings_get_other_folders(
    tmp_path: Path, digits: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = herding(digits, 1)
    soft = dataclasses.replace(QUICK, labels="soft")
    rows = compare(training, digits, soft, tmp_path, whole=True, whole_epochs=1)
    compare(herding(digits, 2), digits, QUICK, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6  # three rows, a teacher, and two rows of the other set
    # The module: in the package the name is the function's.
    monkeypatch.setattr(importlib.import_module("attention_matching.evaluation.evaluate"), "train_networks", None)
    monkeypatch.setattr(soft_labels, "train_networks", None)
    assert compare(training, digits, soft, tmp_path, whole=True, whole_epochs=1) == rows


def test_one_teacher_labels_the_random_images_and_a_set_without_soft_labels(
    digits: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers, labelled = [], []
    train_teacher, soft_labels_from = cross.train_teacher, cross.soft_labels_from

    def counted(*arguments, **more):  # type: ignore[no-untyped-def]
        teachers.append(train_teacher(*arguments, **more))
        return teachers[-1]

    def watched(training, data, **more):  # type: ignore[no-untyped-def]
        labelled.append((training, more))
        return soft_labels_from(training, data, **more)

    monkeypatch.setattr(cross, "train_teacher", counted)
    monkeypatch.setattr(cross, "soft_labels_from", watched)
    soft = dataclasses.replace(QUICK, labels="soft")
    own = dataclasses.replace(random_real(digits, 1), soft_labels=torch.full((10, 10), 0.1))
    compare(own, digits, soft, random_real=False)
    assert not teachers and not labelled
    compare(random_real(digits, 1), digits, soft, whole_epochs=1, temperature=3.0)
    assert len(teachers) == 1 and len(labelled) >= 3
    assert all(more == {"teacher": teachers[0], "temperature": 3.0} for _, more in labelled)


def test_every_architecture_is_trained_and_the_width_is_the_conv_nets(digits: data.ImageSet, tmp_path: Path) -> None:
    training, config = herding(digits, 1), dataclasses.replace(QUICK, networks=1, epochs=1)
    table = cross_architecture(training, digits, config, ["convnet", "alexnet"], tmp_path)
    assert list(table.distilled) == list(table.random_real) == ["convnet", "alexnet"]
    assert table.distilled["convnet"] == evaluate(training, digits, config)
    alexnet = dataclasses.replace(config, architecture="alexnet", width=None)
    assert table.distilled["alexnet"] == evaluate(training, digits, alexnet)
    alone = cross_architecture(training, digits, config, ["convnet"], tmp_path, random_real=False)
    assert alone.random_real == {} and alone.distilled == {"convnet": table.distilled["convnet"]}
    for architectures in ([], ["vit", "vit"]):
        with pytest.raises(InputError, match="architectures are"):
            cross_architecture(training, digits, config, architectures)


def test_a_table_is_written_out_and_read_again(tmp_path: Path) -> None:
    assert TABLE.to_markdown().splitlines()[2:] == [
        "| convnet | 65.0 ± 7.1 % | 85.0 ± 7.1 % | +20.0 points |",
        "| vit | 55.0 ± 0.0 % | 50.0 ± 0.0 % | -5.0 points |",
    ]
    assert CrossTable(TABLE.distilled).to_markdown().splitlines()[2] == "| convnet | 85.0 ± 7.1 % |"
    for table in (TABLE, CrossTable(TABLE.distilled)):
        table.save(tmp_path / "cross.json")
        again = CrossTable.load(tmp_path / "cross.json")
        assert again.distilled == table.distilled and again.random_real == table.random_real
    for content in ("{", "[]", '{"distilled": 3}', "{}"):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(InputError):
            CrossTable.load(tmp_path / "broken.json")
    with pytest.raises(InputError, match="does not exist"):
        CrossTable.load(tmp_path / "nowhere.json")


def test_the_picture_has_a_bar_of_the_right_height_for_every_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn = []
    original = Axes.bar
    monkeypatch.setattr(Axes, "bar", lambda *a, **k: drawn.append((a[2], k["yerr"])) or original(*a, **k))
    TABLE.save_picture(tmp_path / "cross.png")
    assert [[pytest.approx(h) for h in heights] for heights, _ in drawn] == [[65, 55], [85, 50]]
    assert drawn[0][1] == pytest.approx([100 * 0.1 / 2**0.5, 0])
    CrossTable(TABLE.distilled).save_picture(tmp_path / "alone.png")
    with Image.open(tmp_path / "cross.png") as picture:
        assert picture.size[0] > 300


def test_a_table_needs_the_same_architectures_in_both_rows() -> None:
    with pytest.raises(InputError, match="the same for random real images or none"):
        CrossTable({"vit": Evaluation((0.5,))}, {"convnet": Evaluation((0.5,))})
