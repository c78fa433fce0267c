"""The data card: everything that a reader of the set must know is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attention_matching.export.card import data_card, read_evaluation, save_card, summary
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import ZCA, Preprocessing
from sextet_common.errors import InputError

META = {
    "method": "datadam",
    "data": "cifar10:/data",
    "data_sha256": "ab" * 32,
    "ipc": 2,
    "steps": 8000,
    "augment": ["crop", "flip"],
}


def build(meta: dict[str, object] = META, classes: int = 3, whitening: bool = False) -> DistilledSet:
    zca = ZCA(torch.zeros(48), torch.eye(48), torch.eye(48)) if whitening else None
    prepared = Preprocessing(torch.zeros(3), torch.ones(3), zca)
    names = tuple(f"class-{k}" for k in range(classes))
    return DistilledSet(
        torch.zeros(2 * classes, 3, 4, 4), torch.arange(classes).repeat_interleave(2), names, prepared, meta
    )


def rows(card: str) -> dict[str, str]:
    """Return the first and second cell of every row of the card's tables."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    return {row[0]: row[1] for row in cells}


def test_the_card_tells_method_settings_source_and_shape() -> None:
    card = data_card(build())
    found = rows(card)
    assert card.startswith("# cifar10:/data, 2 images per class\n")
    assert found["method"] == "datadam" and found["images"] == "6 of 3 x 4 x 4, 2 per class"
    assert found["SHA-256"] == "ab" * 32 and found["source"] == "cifar10:/data"
    assert found["steps"] == "8000" and found["augment"] == r"\['crop', 'flip'\]"
    assert found["preprocessing"] == "each channel standardised" and found["labels"] == "hard"
    assert "licence" in card and "Not evaluated." in card
    assert rows(data_card(build(whitening=True)))["preprocessing"] == "ZCA whitening"


def test_the_card_tells_accuracies_with_their_spread_and_how_they_were_measured() -> None:
    evaluation = {
        "data": "cifar10:/data",
        "config": {"networks": 3, "epochs": 1000, "width": None},
        "accuracies": {"random real": [0.25, 0.27, 0.29], "distilled": [0.5]},
        "scores": {"label-robust": 0.25844},
    }
    card = data_card(build(), evaluation)
    lines = [line for line in card.splitlines() if line.startswith("| random real")]
    assert lines == ["| random real | 27.0 ± 2.0 % | 3 |"]
    assert rows(card)["distilled"] == "50.0 ± 0.0 %" and rows(card)["label-robust"] == "0.258"
    assert "Trained with: networks 3, epochs 1000." in card and "Not evaluated" not in card


def test_a_set_that_tells_nothing_of_itself_gets_a_card_that_says_so() -> None:
    card = data_card(build(meta={}))
    found = rows(card)
    assert found["method"] == found["source"] == found["SHA-256"] == "not recorded"
    assert "## Settings\n\nNot recorded." in card


def test_names_cannot_break_the_table() -> None:
    card = data_card(build(meta={"data": "a|b\n# c", "note": "x\r\n| y"}))
    assert r"x\\r\\n&#124; y" in card
    titles = [line for line in card.splitlines() if line.startswith("# ")]
    assert titles == [r"# a&#124;b\\n\# c, 2 images per class"]


def test_many_classes_are_told_by_their_number() -> None:
    told = summary(build(classes=21))
    assert "classes        21: class-0, " in told and "class-19, ..." in told and "class-20" not in told


def test_the_card_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    save_card(build(), tmp_path / "CARD.md")
    before = (tmp_path / "CARD.md").read_text(encoding="utf-8")
    assert before == data_card(build())
    with pytest.raises(KeyError):
        save_card(build(), tmp_path / "CARD.md", {"config": {}})
    assert (tmp_path / "CARD.md").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["CARD.md"]


def test_an_evaluation_is_read_or_absent_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    assert read_evaluation(file) is None
    file.write_text('{"accuracies": {"distilled": [0.5]}}')
    assert read_evaluation(file) == {"accuracies": {"distilled": [0.5]}}
    for wrong in ("{", "[1]", "{}", '{"accuracies": 1}'):
        file.write_text(wrong)
        with pytest.raises(InputError, match=r"evaluation\.json (cannot be read|has no accuracies)"):
            read_evaluation(file)
