"""Sharing: exported folders and repositories of the Hub; what may change when a run resumes; trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sextet_common import checkpoint
from sextet_common.errors import InputError
from subclass_kd import (
    Classifier,
    CompareConfig,
    Comparison,
    Hierarchy,
    SubclassSet,
    TrainConfig,
    Views,
    build,
    compare,
    predict,
    train_teacher,
)
from subclass_kd.__main__ import main
from torch import nn

TREE = Hierarchy(np.array([0, 1, 0]), ("tabby", "poodle <b>", "lion"), ("cat", "dog|x"))
IMAGES = np.random.default_rng(0).integers(0, 256, (18, 1, 8, 8), dtype=np.uint8)
DATA = SubclassSet.of((IMAGES, np.arange(18) % 3), (IMAGES, np.arange(18) % 3), TREE)
CONFIG = TrainConfig(epochs=2, batch_size=6, views=Views(1), device="cpu")


def network(seed: int = 0) -> nn.Module:
    return build("convnet", (1, 8, 8), 3, width=2, seed=seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    train_teacher(network(), DATA, CONFIG, folder)
    return folder


def test_an_exported_network_is_bit_identical_and_its_card_is_valid(run: Path, tmp_path: Path) -> None:
    cards = pytest.importorskip("huggingface_hub")
    trained = Classifier.from_pretrained(run)
    trained.export_hub(tmp_path / "hub", license="mit", scores={"f1": 0.5})
    again = Classifier.from_pretrained(tmp_path / "hub")
    assert again.input_shape == (1, 8, 8) and again.hierarchy.subclass_names == TREE.subclass_names
    assert again.hierarchy.class_of.tolist() == [0, 1, 0] and again.hierarchy.class_names == TREE.class_names
    for name, tensor in checkpoint.load(run / "model.safetensors", "torch").arrays.items():
        assert torch.equal(again.network.state_dict()[name], tensor)
    expected = predict(trained.network, DATA.test).softmax(dim=1)
    found = again.predict_proba(IMAGES)
    torch.testing.assert_close(found, torch.stack([expected[:, 0] + expected[:, 2], expected[:, 1]], 1))
    assert torch.equal(found, again.predict_proba(torch.from_numpy(IMAGES.astype(np.float32) / np.float32(255))))
    card = cards.ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license == "mit" and card.data.pipeline_tag == "image-classification"
    assert "50.00" in card.text and "<b>" not in card.text and "dog|x" not in card.text


def test_a_repository_of_the_hub_is_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    Classifier.from_pretrained(run).export_hub(tmp_path / "hub")
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(tmp_path / "hub")

    monkeypatch.setattr(hub, "snapshot_download", download)
    model = Classifier.from_pretrained("me/pets", revision="v1")
    assert asked == [("me/pets", "v1")] and model.hierarchy.n_subclasses == 3


def test_a_custom_network_and_wrong_files_are_refused_or_given(run: Path, tmp_path: Path) -> None:
    custom = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    Classifier(custom, TREE, (1, 8, 8)).export_hub(tmp_path / "own")
    with pytest.raises(InputError, match="weights of a custom network; expected: that network, as network"):
        Classifier.from_pretrained(tmp_path / "own")
    blank = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    again = Classifier.from_pretrained(tmp_path / "own", network=blank)
    assert torch.equal(again.network.state_dict()["1.weight"], custom.state_dict()["1.weight"])
    with pytest.raises(InputError, match="own exists"):
        Classifier(custom, TREE, (1, 8, 8)).export_hub(tmp_path / "own")
    with pytest.raises(InputError, match="images have shape"):
        again.predict_proba(IMAGES[:, :, :4])
    saved = checkpoint.load(run / "model.safetensors", "torch")
    for meta, message in (
        ({"subclasses": ["a"]}, "does not say"),
        (saved.meta | {"class_of": [0, 1, 5]}, "."),
        (saved.meta | {"architecture": {"network": "convnet", "width": 10**6}}, "does not fit the weights"),
        (saved.meta | {"architecture": {"network": "convnet"}}, "cannot be read"),
    ):
        checkpoint.save(tmp_path / "model.safetensors", saved.arrays, meta)
        with pytest.raises(InputError, match=message):
            Classifier.from_pretrained(tmp_path)


def test_the_commands_export_and_take_exported_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = ["--epochs", "1", "--views", "1", "--device", "cpu", "--width", "2"]
    assert main(["teacher", "--out", str(tmp_path / "t"), *fast]) == 0
    assert main(["export", str(tmp_path / "t"), "--to", str(tmp_path / "hub"), "--license", "mit"]) == 0
    scores = json.loads((tmp_path / "t" / "test.json").read_text())
    assert f"{100 * scores['f1']:.2f}" in (tmp_path / "hub" / "README.md").read_text()
    capsys.readouterr()
    assert main(["bits", str(tmp_path / "hub")]) == 2
    assert "does not say what its data are" in capsys.readouterr().err
    for folder, words in ((tmp_path / "t", []), (tmp_path / "hub", ["--data", "digits"])):
        assert main(["bits", str(folder), *words]) == 0
    first, second = capsys.readouterr().out.split("label entropy")[1:]
    assert first == second
    words = ["distill", "--teacher", str(tmp_path / "hub"), "--data", "digits", "--out", str(tmp_path / "s")]
    assert main([*words, *fast]) == 0
    assert main(["distill", "--teacher", str(tmp_path / "t"), "--out", str(tmp_path / "s2"), *fast]) == 0
    weights = [checkpoint.load(tmp_path / name / "model.safetensors").arrays for name in ("s", "s2")]
    assert all(np.array_equal(array, weights[1][name]) for name, array in weights[0].items())


def test_running_settings_may_change_and_the_schedule_s_epochs_may_not(run: Path) -> None:
    other = TrainConfig(epochs=2, batch_size=6, views=Views(1), device="auto", checkpoint_every=1)
    train_teacher(network(), DATA, other, run)
    for changed in ({"epochs": 3}, {"seed": 1}, {"batch_size": 9}):
        config = TrainConfig(**({"epochs": 2, "batch_size": 6, "views": Views(1), "device": "cpu"} | changed))
        with pytest.raises(InputError, match=f"holds a run with .*{next(iter(changed))}"):
            train_teacher(network(), DATA, config, run)


def test_a_comparison_goes_on_with_more_seeds(tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ("alone",), "teacher_width": 2, "student_width": 2, "train": CONFIG}
    first = compare(DATA, CompareConfig(seeds=1, **options), tmp_path / "x")
    stamp = (tmp_path / "x" / "seed-0" / "teacher" / "model.safetensors").stat().st_mtime_ns
    more = compare(DATA, CompareConfig(seeds=2, **options), tmp_path / "x")
    whole = compare(DATA, CompareConfig(seeds=2, **options))
    assert more.scores["alone"][:1] == first.scores["alone"] and more.scores == whole.scores
    assert len(list((tmp_path / "x" / "seed-0" / "teacher" / "checkpoints").iterdir())) >= 1 and stamp
    assert Comparison.load(tmp_path / "x").scores == whole.scores
    with pytest.raises(InputError, match="holds a run with"):
        compare(DATA, CompareConfig(seeds=2, **{**options, "methods": ("kd",)}), tmp_path / "x")


class Recorder:
    """A tracker that keeps what it receives."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, run: Any) -> None:
        self.told.append(("start", run.path.name))

    def log(self, step: int, values: Any) -> None:
        self.told.append((step, values["loss"]))

    def finish(self, status: str) -> None:
        self.told.append(("finish", status))


def test_a_tracker_is_told_every_epoch(tmp_path: Path) -> None:
    recorder = Recorder()
    train_teacher(network(), DATA, CONFIG, tmp_path / "run", log=(recorder,))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["loss"]) for row in rows]
    assert recorder.told == [("start", "run"), *expected, ("finish", "finished")] and len(expected) == 2


def test_an_unknown_tracker_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teacher", "--out", str(tmp_path / "t"), "--log", "tensorbord"]) == 2
    assert "tensorboard" in capsys.readouterr().err and not (tmp_path / "t").exists()
