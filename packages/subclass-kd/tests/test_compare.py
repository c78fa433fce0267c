from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sextet_common.errors import InputError
from subclass_kd import (
    Bits,
    ClassKDLoss,
    CompareConfig,
    Comparison,
    CrossEntropy,
    DecoupledKDLoss,
    Difference,
    DISTLoss,
    Hierarchy,
    Scores,
    StandardizedKDLoss,
    SubclassKDLoss,
    SubclassSet,
    TeacherLogits,
    TrainConfig,
    Views,
    build,
    compare,
    evaluate,
    label_bits,
    load_into,
    predict,
    save_bits,
    save_confusion,
    save_gains,
)
from subclass_kd.compare import _Trial, grid_of, objective_of

H = Hierarchy(np.array([0, 1, 0, 1]), tuple("abcd"), ("x", "y"))
TRAIN = TrainConfig(epochs=2, batch_size=16, views=Views(2), device="cpu")
SMALL = CompareConfig(("alone", "kd", "skd"), seeds=2, teacher_width=4, student_width=2, train=TRAIN)


def data() -> SubclassSet:
    """Images whose brightest quarter is their subclass."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 4
    images = 0.4 * random.random((120, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 0.5
    return SubclassSet.of(
        (images[:80], labels[:80]), (images[80:], labels[80:]), H, difficulty=random.random(80), source="quarters"
    )


def of(f1: dict[str, list[float]], bits: float = 1.0) -> Comparison:
    scores = {name: [Scores(value, 0.5, 0.5, 0.5, 0.5) for value in values] for name, values in f1.items()}
    return Comparison(scores, {}, (Bits("label entropy", bits, bits - 0.1, bits + 0.1, 2.0),) * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "x"
    compare(data(), dataclasses.replace(SMALL, methods=("alone", "kd", "skd", "discovered")), path)
    return path


def test_a_comparison_is_the_same_with_and_without_a_folder(folder: Path) -> None:
    cached = Comparison.from_dict(json.loads((folder / "comparison.json").read_text()))
    live = compare(data(), SMALL)
    for method in ("teacher", "alone", "kd", "skd"):
        for one, other in zip(cached.scores[method], live.scores[method], strict=True):
            assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-5)
    assert cached.bits[0] == label_bits(data().train.labels, H)
    assert cached.cost["teacher"]["parameters"] > cached.cost["student"]["parameters"] > 0
    assert len(cached.scores["discovered"]) == 2


def test_finished_networks_are_not_trained_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    table = json.loads((folder / "comparison.json").read_text())["scores"]
    (folder / "comparison.json").unlink()
    lines = (folder / "seed-1" / "skd" / "metrics.jsonl").read_text()
    again = compare(data(), dataclasses.replace(SMALL, methods=("alone", "kd", "skd", "discovered")), folder)
    assert again.as_dict()["scores"] == table
    assert (folder / "seed-1" / "skd" / "metrics.jsonl").read_text() == lines
    assert before.keys() == {path: 0 for path in folder.rglob("model.safetensors")}.keys()
    names = {path.parent.name for path in before}
    assert names == {"teacher", "alone", "kd", "skd", "classes", "teacher-discovered", "discovered"}


def test_a_folder_of_another_comparison_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="temperature"):
        compare(data(), dataclasses.replace(SMALL, temperature=2.0), folder)


def test_the_record_of_a_comparison_without_new_settings_is_that_of_earlier_releases(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["config"]
    assert not {"tune", "teacher_labels", "teacher_epochs"} & set(config)
    assert "unlabelled_ratio" not in config["train"]


def test_every_method_runs_and_a_curriculum_needs_difficulties() -> None:
    config = dataclasses.replace(
        SMALL,
        methods=("alone-subclass", "dkd", "skd-curriculum", "learned"),
        per_class=2,
        seeds=1,
        train=dataclasses.replace(TRAIN, epochs=1),
    )
    assert set(compare(data(), config).scores) == {"teacher", *config.methods}
    plain = data()
    plain = dataclasses.replace(plain, train=dataclasses.replace(plain.train, difficulty=None))
    with pytest.raises(InputError, match="skd-curriculum without difficulties"):
        compare(plain, config)


SCARCE = dataclasses.replace(SMALL, share=0.2, seeds=1)


def test_unlabelled_images_are_used_in_as_many_steps_by_a_teacher_of_all_labels(tmp_path: Path) -> None:
    config = dataclasses.replace(SCARCE, methods=("kd-semi", "skd-semi", "pseudo"), teacher_labels="all")
    config = dataclasses.replace(config, train=dataclasses.replace(TRAIN, epochs=8))
    result = compare(data(), config, tmp_path / "x")
    assert set(result.scores) == {"teacher", *config.methods}
    folder = tmp_path / "x" / "seed-0"
    # Of 68 training images 12 are labelled. An epoch of these is one step; of the 56 others, 12 a step, four; of all
    # images, 16 a step, four.
    epochs = {"teacher": 2, "kd-semi": 2, "skd-semi": 2, "pseudo": 2}
    found = {name: len((folder / name / "metrics.jsonl").read_text().splitlines()) for name in epochs}
    assert found == epochs
    assert TeacherLogits(folder / "teacher-logits-all-images").shape == (len(data().train), 4)


def test_pseudo_labels_are_the_teacher_s() -> None:
    config = dataclasses.replace(SCARCE, methods=("pseudo",), teacher_labels="all")
    trial = _Trial(data(), config, 0, None, (), {})
    trial.scores()
    labelled, (filled, _) = trial.all.scarce(0.2, 0, rest="unlabelled").train, trial._semi("pseudo")
    known = labelled.labels >= 0
    assert known.sum() == 12 and np.array_equal(filled.train.labels[known], labelled.labels[known])
    expected = predict(trial.teacher, labelled).argmax(dim=1).numpy()
    assert np.array_equal(filled.train.labels[~known], expected[~known])


def test_images_without_labels_in_the_data_are_those_of_a_share() -> None:
    config = dataclasses.replace(SCARCE, methods=("kd", "skd", "skd-semi", "pseudo"))
    shared = compare(data(), config)
    given = compare(data().scarce(0.2, 0, rest="unlabelled"), dataclasses.replace(config, share=1))
    assert given.scores == shared.scores
    with pytest.raises(InputError, match=r"skd-semi without unlabelled images; expected: a share of the labels below"):
        compare(data(), dataclasses.replace(config, share=1))


def test_single_methods_may_have_their_own_temperature_and_alpha() -> None:
    own = {"kd": {"temperature": 1.0}, "skd": {"temperature": 8.0, "alpha": 0.5}}
    result = compare(data(), dataclasses.replace(SCARCE, methods=("kd", "skd")), chosen=own)
    assert result.chosen == own
    kd = compare(data(), dataclasses.replace(SCARCE, methods=("kd",), temperature=1.0))
    skd = compare(data(), dataclasses.replace(SCARCE, methods=("skd",), temperature=8.0, alpha=0.5))
    assert (result.scores["kd"], result.scores["skd"]) == (kd.scores["kd"], skd.scores["skd"])
    with pytest.raises(InputError, match=r"'heat': 2.0.*expected: temperature, alpha, or both"):
        compare(data(), SCARCE, chosen={"kd": {"heat": 2.0}})


def test_tuned_settings_are_those_of_the_best_validation_score_of_the_first_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["subclass_kd.compare"], "TEMPERATURES", (1.0, 6.0))
    config = dataclasses.replace(SMALL, methods=("alone", "dkd", "kd-classes"), tune=True)
    result = compare(data(), config, tmp_path / "x")
    assert set(result.chosen) == set(config.methods) and result.chosen["alone"] == {}
    assert set(result.chosen["dkd"]) == {"temperature"} and set(result.chosen["kd-classes"]) == {"temperature", "alpha"}
    students = {path.name for path in (tmp_path / "x" / "seed-0").iterdir() if path.name.startswith("kd-classes-t")}
    assert len(students) == 4  # two temperatures, two values of alpha
    scores = {}
    for name in students:
        student = load_into(build("convnet", (1, 8, 8), 4, width=2), tmp_path / "x" / "seed-0" / name)
        temperature, alpha = (float(value) for value in re.findall(r"-([\d.]+)", name))
        scores[temperature, alpha] = evaluate(student, data(), "validation").f1, evaluate(student, data()).f1
    chosen = tuple(result.chosen["kd-classes"].values())
    assert scores[chosen][0] == max(found[0] for found in scores.values())
    assert result.scores["kd-classes"][0].f1 == pytest.approx(scores[chosen][1])
    later = [path.name for path in (tmp_path / "x" / "seed-1").iterdir() if path.name.startswith("kd-classes-t")]
    assert len(later) == 1 and len(grid_of("skd")) == 4
    assert Comparison.load(tmp_path / "x").chosen == result.chosen
    assert f"(temperature {chosen[0]:g}, alpha {chosen[1]:g})" in result.table()


def test_the_table_compares_with_conventional_kd_on_the_same_images() -> None:
    result = of(
        {"alone": [0.5], "alone-subclass": [0.6], "kd": [0.4], "kd-semi": [0.7], "skd": [0.8], "skd-semi": [0.9]}
    )
    cells = {line.split("|")[1].strip(): line.split("|")[-4:-1] for line in result.table().splitlines()}
    assert [cell.split(" [")[0].strip() for cell in cells["SKD, unlabelled images too"]] == [
        "+40.00",
        "+30.00",
        "+20.00",
    ]
    assert [cell.split(" [")[0].strip() for cell in cells["SKD"]] == ["+30.00", "+20.00", "+40.00"]


def test_methods_are_their_losses() -> None:
    assert isinstance(objective_of("alone", data(), 2, 0.5), CrossEntropy)
    kinds = {
        "kd": ClassKDLoss,
        "dkd": DecoupledKDLoss,
        "dist": DISTLoss,
        "standardised": StandardizedKDLoss,
        "skd": SubclassKDLoss,
        "discovered": SubclassKDLoss,
    }
    for method, kind in kinds.items():
        objective = objective_of(method, data(), 2.5, 0.25)  # type: ignore[arg-type]
        assert isinstance(objective, kind) and objective.temperature == 2.5


def test_paired_differences_are_a_paired_t_test_s() -> None:
    a, b = [0.90, 0.85, 0.88, 0.91], [0.86, 0.84, 0.85, 0.85]
    result = of({"kd": b, "skd": a}).difference("skd", "kd")
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert result.mean == pytest.approx(100 * (np.mean(a) - np.mean(b)))
    one = of({"kd": [0.5], "skd": [0.6]}).difference("skd", "kd")
    assert one.mean == pytest.approx(10) and np.isnan(one.low)
    assert str(Difference(1.234, -0.5, 2)) == "+1.23 [-0.50, +2.00]"


def test_the_table_has_a_row_for_each_method() -> None:
    table = of({"teacher": [0.9, 0.9], "alone": [0.5, 0.7], "kd": [0.6, 0.7], "skd": [0.8, 0.8]}).table().splitlines()
    assert len(table) == 6 and {line.count("|") for line in table} == {9}
    cells = [cell.strip() for cell in table[-1].split("|")]
    assert cells[1] == "SKD" and cells[2] == "80.00 ± 0.00"
    assert cells[7].startswith("+20.00 [") and cells[8].startswith("+15.00 [")
    assert table[3].split("|")[7:9] == ["  ", "  "] or not "".join(table[3].split("|")[7:9]).strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"seeds": 0}, "seeds must be a whole number >= 1, got 0"),
        ({"methods": ()}, "methods are"),
        ({"methods": ("skd", "skd")}, "each once"),
        ({"teacher_labels": "none"}, "teacher_labels must be share or all, got 'none'"),
        ({"methods": ("skd", "magic")}, r"methods\[1\] must be .*, got 'magic'"),
        ({"share": 0.0}, r"share must be a number in \(0, 1\], got 0.0"),
        ({"alpha": 1.5}, r"alpha must be a number in \[0, 1\], got 1.5"),
        ({"temperature": 0.0}, "temperature must be a number > 0, got 0.0"),
        ({"teacher_width": 0}, "teacher_width must be a whole number >= 1, got 0"),
        ({"per_class": 0}, "per_class must be a whole number >= 1, got 0"),
    ],
)
def test_invalid_settings_are_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CompareConfig(**words)  # type: ignore[arg-type]


def test_figures_are_drawn(tmp_path: Path) -> None:
    result = of({"teacher": [0.9, 0.9], "alone": [0.5, 0.7], "kd": [0.6, 0.7], "skd": [0.8, 0.8]})
    labels = np.arange(40) % 4
    for path in (
        save_gains(result, tmp_path / "gains.png"),
        save_bits([("one", result), ("two", of({"kd": [0.5], "skd": [0.6]}, 0.5))], tmp_path / "bits.png"),
        save_bits(
            [("one", of({"kd-semi": [0.5], "skd-semi": [0.6]}))], tmp_path / "b.png", method="skd-semi", to="kd-semi"
        ),
        save_confusion(np.roll(labels, 3), labels, H, tmp_path / "confusion.png"),
    ):
        with Image.open(path) as image:
            assert min(image.size) > 100 and len(image.convert("L").getcolors(256) or []) > 10


def test_figures_of_missing_methods_are_refused() -> None:
    result = of({"teacher": [0.9], "alone": [0.5]})
    with pytest.raises(InputError, match="alone and at least one more"):
        save_gains(result, "none.png")
    with pytest.raises(InputError, match="without skd and kd"):
        save_bits([("one", result)], "none.png")
    with pytest.raises(InputError, match="shapes"):
        save_confusion(np.zeros(3, dtype=int), np.zeros(2, dtype=int), H, "none.png")
    with pytest.raises(InputError, match="subclass label 4"):
        save_confusion(np.full(2, 4), np.zeros(2, dtype=int), H, "none.png")
    assert not Path("none.png").exists()
