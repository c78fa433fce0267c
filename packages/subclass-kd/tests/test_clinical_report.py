from __future__ import annotations

import csv
import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sextet_common.errors import DataWarning, InputError
from sklearn import metrics as sk
from subclass_kd import Hierarchy, SubclassSet, TrainConfig, build, load, train_teacher
from subclass_kd.__main__ import main
from subclass_kd.clinical.files import save_clinical
from subclass_kd.clinical.heatmaps import heat_maps
from subclass_kd.clinical.report import ClinicalConfig, ClinicalReport, clinical_report
from torch import nn


def has_captum() -> bool:
    try:
        import captum  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def data() -> SubclassSet:
    """Digits of 40 patients in the test part."""
    digits = load("digits")
    patients = np.array([f"patient {n % 40}" for n in range(len(digits.test))])
    return replace(digits, test=replace(digits.test, groups=patients))


@pytest.fixture(scope="module")
def networks(data: SubclassSet) -> list[nn.Module]:
    config = TrainConfig(epochs=1, device="cpu")
    return [train_teacher(build("convnet", (1, 8, 8), 10, width=width), data, config) for width in (8, 4)]


@pytest.fixture(scope="module")
def report(data: SubclassSet, networks: list[nn.Module]) -> ClinicalReport:
    return clinical_report(networks[0], data, ClinicalConfig(positive="even", replicates=200), against=networks[1])


def saved(report: ClinicalReport, folder: Path, network: nn.Module, data: SubclassSet) -> Path:
    with warnings.catch_warnings():
        if not has_captum():
            warnings.simplefilter("ignore", DataWarning)
        return save_clinical(report, folder, network, data, title="<i>digits</i>")


def test_all_numbers_follow_from_the_table_of_predictions(
    report: ClinicalReport, data: SubclassSet, networks: list[nn.Module], tmp_path: Path
) -> None:
    saved(report, tmp_path, networks[0], data)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    test = [row for row in rows if row["split"] == "test"]
    validation = [row for row in rows if row["split"] == "validation"]
    assert (len(test), len(validation)) == (len(data.test), len(data.validation))
    y, p = (np.array([row["class"] == "even" for row in part]) for part in (test, validation))
    score, seen = (np.array([float(row["probability"]) for row in part]) for part in (test, validation))
    point = report.points[0]
    best = max((seen > t)[p].mean() + (seen <= t)[~p].mean() for t in [-1, *seen])
    assert (seen > point.threshold)[p].mean() + (seen <= point.threshold)[~p].mean() == pytest.approx(best)
    decided = score > point.threshold
    assert [row["predicted"] == "even" for row in test] == decided.tolist()
    assert point.measures["sensitivity"].value == pytest.approx(sk.recall_score(y, decided))
    assert point.measures["specificity"].value == pytest.approx(sk.recall_score(~y, ~decided))
    assert report.auroc.value == pytest.approx(sk.roc_auc_score(y, score))
    assert report.measures["AUROC"].value == pytest.approx(report.auroc.value)
    second = np.array([float(row["probability of the second"]) for row in test])
    assert report.comparison is not None
    assert report.comparison.difference.value == pytest.approx(report.auroc.value - sk.roc_auc_score(y, second))
    of_evens = [sum(float(row[f"P({digit})"]) for digit in "02468") for row in test]
    np.testing.assert_allclose(of_evens, score, atol=1e-12)
    three = np.array([row["subclass"] == "3" for row in test])
    assert report.by_subclass["3"].value == pytest.approx((~decided[three]).mean())
    assert {row["group"] for row in test} == set(data.test.groups.tolist())
    numbers = json.loads((tmp_path / "clinical.json").read_text())
    assert numbers["counts"]["test"] == {"images": len(test), "positive": int(y.sum()), "patients": 40}
    assert numbers["auroc"]["value"] == report.auroc.value and "probability" not in numbers


class Page(HTMLParser):
    """Tags that must be closed, and everything that a page could load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_without_scripts_and_shows_names_as_they_are(
    report: ClinicalReport, data: SubclassSet, networks: list[nn.Module], tmp_path: Path
) -> None:
    text = saved(report, tmp_path, networks[0], data).read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open and "script" not in page.tags and "i" not in page.tags
    assert page.loads and all(value.startswith("data:image/png;base64,") for value in page.loads)
    assert "&lt;i&gt;digits&lt;/i&gt;: even against odd" in text and "url(" not in text
    assert f"{100 * report.auroc.value:.1f} <small>" in text and "of 40 patients" in text
    assert "p of DeLong" in text and text.count("heat map") > 4 * has_captum()


def test_intervals_are_by_patient_if_patients_are_known(data: SubclassSet, networks: list[nn.Module]) -> None:
    config = ClinicalConfig(replicates=400)
    order = np.argsort(data.test.labels % 2, kind="stable")
    few = np.empty(len(order), dtype=int)
    few[order] = np.arange(len(order)) // 60  # seven patients, each with images of one class
    widths = []
    for groups in (None, few):
        part = replace(data, test=replace(data.test, groups=groups))
        interval = clinical_report(networks[0], part, config).measures["AUROC"]
        widths.append(interval.high - interval.low)
    assert widths[1] > 1.3 * widths[0]


def test_the_positive_class_turns_sensitivity_and_specificity(data: SubclassSet, networks: list[nn.Module]) -> None:
    half = {"rule": "half", "replicates": 10}
    odd, even = (clinical_report(networks[0], data, ClinicalConfig(name, **half)) for name in (None, "even"))
    assert (odd.positive, odd.negative, even.positive) == ("odd", "even", "even")
    first, second = odd.points[0].measures, even.points[0].measures
    assert odd.points[0].threshold == 0.5 and first["sensitivity"].value == second["specificity"].value
    assert odd.auroc.value == pytest.approx(even.auroc.value)


def test_one_of_several_classes_is_positive_against_all_others(networks: list[nn.Module]) -> None:
    tree = {"zero": ["0"], "small": ["1", "2", "3", "4"], "large": ["5", "6", "7", "8", "9"]}
    data = load("digits", hierarchy=tree)
    report = clinical_report(networks[0], data, ClinicalConfig("zero", replicates=10))
    assert report.negative == "all other classes" and report.test.positive.sum() == (data.test.labels == 0).sum()
    with pytest.raises(InputError, match=r"no positive class of 3 is named; expected: one of zero, small, large"):
        clinical_report(networks[0], data)
    with pytest.raises(InputError, match="positive is 'zerro'"):
        clinical_report(networks[0], data, ClinicalConfig("zerro"))


def test_calibration_bins_hold_all_images(report: ClinicalReport) -> None:
    assert sum(each.images for each in report.curve) == len(report.test.positive)
    share = sum(each.images * each.positive.value for each in report.curve)
    assert share == pytest.approx(report.test.positive.sum())
    assert all(each.positive.low <= each.positive.value <= each.positive.high for each in report.curve)


def test_a_heat_map_is_the_weighted_sum_of_the_last_maps() -> None:
    pytest.importorskip("captum")
    parity = Hierarchy.from_dict({"even": ["0", "2"], "odd": ["1", "3"]})
    network = build("convnet", (1, 8, 8), 4, width=4).eval()
    images = torch.rand(3, 1, 8, 8)
    maps = network.blocks(images)
    logits = network.classifier(maps.mean(dim=(2, 3)))
    # With average pooling, the gradient at every position is that of the log-odds by the pooled features.
    even, odd = logits[:, :2].softmax(dim=1), logits[:, 2:].softmax(dim=1)
    slope = odd @ network.classifier.weight[2:] - even @ network.classifier.weight[:2]
    for opposed, sign in ((False, 1), (True, -1)):
        expected = torch.relu(sign * torch.einsum("bk,bkhw->bhw", slope, maps))
        large = nn.functional.interpolate(expected[:, None], size=(8, 8), mode="bilinear")[:, 0]
        large = large / large.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        for layer in (None, "blocks"):
            found = heat_maps(network, images, parity, 1, opposed=opposed, layer=layer)
            torch.testing.assert_close(found, large.detach(), rtol=1e-4, atol=1e-5)
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_networks_without_maps_are_refused_and_the_page_says_why(data: SubclassSet, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="Sequential has no convolutional layer"):
        heat_maps(flat, torch.rand(2, 1, 8, 8), data.hierarchy, 0)
    with pytest.raises(InputError, match="the network has no layer 'block'; expected: 0, 1"):
        heat_maps(flat, torch.rand(2, 1, 8, 8), data.hierarchy, 0, layer="block")
    with pytest.raises(InputError, match="layer '1' has outputs of 2 axes"):
        heat_maps(flat, torch.rand(2, 1, 8, 8), data.hierarchy, 0, layer="1")
    report = clinical_report(flat, data, ClinicalConfig(replicates=10))
    with pytest.warns(DataWarning, match="no heat maps: Sequential has no convolutional layer"):
        page = save_clinical(report, tmp_path, flat, data)
    assert "no heat maps" in page.read_text() and "alt='heat map'" not in page.read_text()


@pytest.fixture(scope="module")
def mhist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic MHIST folder: the more votes for SSA, the brighter a spot."""
    root, random = tmp_path_factory.mktemp("data") / "mhist", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    lines = ["Image Name,Majority Vote Label,Number of Annotators who Selected SSA (Out of 7),Partition"]
    for number in range(120):
        votes = int(random.integers(8))
        pixels = random.integers(100, size=(16, 16, 3))
        pixels[4:8, 4:8] += 20 * votes
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"MHIST_{number}.png")
        majority, partition = "SSA" if votes >= 4 else "HP", "test" if number % 3 else "train"
        lines.append(f"MHIST_{number}.png,{majority},{votes},{partition}")
    (root / "annotations.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_command_writes_the_report_of_a_run_and_compares_two(
    mhist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["--epochs", "1", "--views", "1", "--device", "cpu", "--data", f"mhist:{mhist}", "--size", "16"]
    for width in ("2", "3"):
        run = str(tmp_path / width)
        assert main(["distill", "--method", "alone-subclass", "--width", width, "--out", run, *fast]) == 0
    words = ["report", str(tmp_path / "2"), str(tmp_path / "3"), "--clinical", "--replicates", "50"]
    capsys.readouterr()
    with warnings.catch_warnings():
        if not has_captum():
            warnings.simplefilter("ignore", DataWarning)
        assert main([*words, "--positive", "HP", "--rule", "sensitivity", "--sensitivity", "0.8"]) == 0
    printed = capsys.readouterr().out
    assert "HP against SSA: AUROC" in printed and re.search(r"AUROC over .*/3: .*, p = ", printed)
    numbers = json.loads((tmp_path / "2" / "clinical" / "clinical.json").read_text())
    assert numbers["points"][0]["name"] == "sensitivity at least 0.8"
    assert set(numbers["by_subclass"]) == {"HP ambiguous", "HP clear", "SSA ambiguous", "SSA clear"}
    assert "MHIST_1.png" in (tmp_path / "2" / "clinical" / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{none}"], "a finished run folder"),
        (["{none}", "{none}", "{none}"], "3 runs for a clinical report; expected: one, or two to compare"),
        (["{none}", "--sensitivity", "1.5"], "sensitivity must be"),
        (["{none}", "--level", "1"], "level must be"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.replace("{none}", str(tmp_path / "none")) for word in words]
    assert main(["report", "--clinical", *filled]) == 2
    error = capsys.readouterr().err
    assert error.startswith("subclass-kd: ") and error.count("\n") == 1 and message in error, error
