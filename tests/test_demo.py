"""The demo: its page for invented packages, and the promised results of the real ones."""

from __future__ import annotations

import base64
import importlib
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import gaussian_kde, multivariate_normal
from sklearn.datasets import load_breast_cancer

ROOT = Path(__file__).resolve().parent.parent
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
GOOD = f"""
import json, pathlib, sys
out = pathlib.Path(sys.argv[2])
out.mkdir(parents=True)
(out / "p.png").write_bytes({PNG!r})
rows = [["1", "a < b"], ["10", "c"]]
result = dict(title="T & t", sentence="It works.", columns=["n", "what"], rows=rows, note="N.", picture="p.png")
(out / "result.json").write_text(json.dumps(result))
"""
BAD = "import sys; sys.exit('no such <file>')"


class Page(HTMLParser):
    """Counts what a reader sees and collects what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("demo")


@pytest.fixture(autouse=True)
def every_page_is_browsed(chromium: Callable[..., Any] | None, tmp_path: Path) -> Iterator[None]:
    """Where this machine has a Chromium, whatever page a test made is opened in it."""
    yield
    for page in tmp_path.glob("**/index.html") if chromium else ():
        text = page.read_text()
        seen = chromium(page, 360)
        assert seen.heard == [] and seen.console == [] and seen.wider == 0
        assert len(seen.pictures) == text.count("<img ") and all(width > 0 for _, width, _ in seen.pictures)
        assert len(seen.tables) == text.count("<table>") and all(seen.tables)


@pytest.fixture
def packages(demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    found = {}
    for name, script in (("bad", BAD), ("good", GOOD), ("silent", None)):
        path = tmp_path / "packages" / name
        (path / "examples").mkdir(parents=True)
        if script:
            (path / "examples" / "demo.py").write_text(script)
        found[name] = demo.workspace.Package(name, name, "0.1.0", path, {}, ())
    monkeypatch.setattr(demo.workspace, "discover", lambda: found)
    return {name: package.path for name, package in found.items()}


def test_a_failing_demo_is_shown_and_the_others_still_run(
    demo: ModuleType, packages: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert demo.main(["--out", str(out)]) == 1
    page = Page((out / "index.html").read_text())
    assert page.tags.count("section") == 2 and page.tags.count("img") == 1 and page.tags.count("td") == 4
    for seen in ("This demo failed.", "no such <file>", "exit code 1", "T & t", "It works.", "a < b"):
        assert seen in page.text
    printed = capfd.readouterr().out
    assert "bad: FAILED" in printed and "10  c" in printed


def test_the_page_loads_no_external_resources(demo: ModuleType, packages: dict[str, Path], tmp_path: Path) -> None:
    assert demo.main(["--only", "good", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    page = Page(text)
    assert page.links and all(link.startswith("data:") for link in page.links)
    assert not re.search(r"https?:|<script|@import|url\(", text)
    assert base64.b64decode(page.links[-1].partition(",")[2]) == PNG
    assert "viewport" in text


def test_demos_run_side_by_side_and_the_page_shows_those_that_are_done(
    demo: ModuleType, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bad` ends only once the page shows `good`, so one after the other they would wait in vain."""
    page, write = tmp_path / "out" / "index.html", demo.files.write_text
    pages = []
    monkeypatch.setattr(demo.files, "write_text", lambda path, text: pages.append(text) or write(path, text))
    wait = f"import pathlib, time\nfor _ in range(600):\n    pathlib.Path({str(page)!r}).exists() or time.sleep(0.1)\n"
    (packages["bad"] / "examples" / "demo.py").write_text(wait + BAD)
    assert demo.main(["--out", str(tmp_path / "out"), "--jobs", "2"]) == 1
    assert "Still to come: bad." in pages[0] and "It works." in pages[0] and "refresh" in pages[0]
    assert "Still to come" not in pages[1] and "refresh" not in pages[1] and page.read_text() == pages[1]


def test_the_longest_demos_begin_first(
    demo: ModuleType, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "LONGEST_FIRST", ("good", "bad"))
    begun = []
    monkeypatch.setattr(demo, "run_demo", lambda package, out, alone: begun.append(package.name) or demo.Shown(
        package.name, "", 0.0, fault="x"))  # fmt: skip
    demo.main(["--out", str(tmp_path), "--jobs", "1"])
    assert begun == ["good", "bad"]


def test_the_ranked_demos_are_those_of_the_packages(demo: ModuleType) -> None:
    assert sorted(demo.LONGEST_FIRST) == sorted(p.parent.parent.name for p in ROOT.glob("packages/*/examples/demo.py"))


def test_an_unknown_package_is_refused(demo: ModuleType, packages: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(["--only", "silent", "--out", str(tmp_path)])
    assert stop.value.code == 2


@pytest.mark.slow
def test_the_tumours_demo_shows_the_error_of_each_method(demo: ModuleType, tmp_path: Path) -> None:
    assert demo.main(["--only", "gmr-metric", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gmr-metric" / "result.json").read_text())
    angles = result["angles"]
    assert min(angles, key=angles.__getitem__) == "oggmr" and max(angles, key=angles.__getitem__) == "prune"
    assert angles["runnalls"] > 3 * angles["oggmr"]
    # The angle by a sum over a grid instead of the closed form.
    points = load_breast_cancer().data[:, :2]
    x, y = np.meshgrid(np.linspace(0, 40, 400), np.linspace(0, 50, 400))
    original = gaussian_kde(points.T)([x.ravel(), y.ravel()])
    saved = json.loads((tmp_path / "gmr-metric" / "six.json").read_text())
    reduced = sum(
        weight * multivariate_normal(mean, covariance).pdf(np.stack([x.ravel(), y.ravel()], axis=1))
        for weight, mean, covariance in zip(saved["weights"], saved["means"], saved["covariances"], strict=True)
    )
    cosine = original @ reduced / np.sqrt((original @ original) * (reduced @ reduced))
    assert np.arccos(cosine) == pytest.approx(angles["oggmr"], abs=2e-4)
    # The PSNR of the simplified scene, from the picture's own pixels.
    with Image.open(tmp_path / "gmr-metric" / "splats.png") as picture:
        pixels = np.asarray(picture.convert("RGB")) / 255
    width = (pixels.shape[1] - 12) // 2
    ratio = -10 * np.log10(((pixels[:, :width] - pixels[:, -width:]) ** 2).mean())
    assert ratio == pytest.approx(result["psnr"]["merged"], abs=0.05) and ratio > result["psnr"]["pruned"] + 10
    page = Page((tmp_path / "index.html").read_text())
    assert page.tags.count("tr") == 8 and page.tags.count("img") == 2


@pytest.mark.slow
def test_the_digits_demo_reaches_the_gains_it_promises(demo: ModuleType, tmp_path: Path) -> None:
    assert demo.main(["--only", "attention-matching", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "attention-matching" / "result.json").read_text())
    for method in ("datadam", "atom"):
        assert result["gains"]["1"][method] >= 8 and result["gains"]["10"][method] > 0
    assert result["columns"] == ["training images", "random real", "DM", "DataDAM", "ATOM"]
    page = Page((tmp_path / "index.html").read_text())
    assert page.tags.count("tr") == 4 and page.tags.count("img") == len(result["pictures"]) == 5


@pytest.mark.slow
def test_the_scenes_demo_finds_the_groups_of_digits(demo: ModuleType, tmp_path: Path) -> None:
    assert demo.main(["--only", "probmcl", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "probmcl" / "result.json").read_text())
    assert result["ratio"] > 1.1
    assert all(float(value.split()[0]) > 60 for value in result["maps"].values())
    assert Page((tmp_path / "index.html").read_text()).tags.count("tr") == 3


@pytest.mark.slow
def test_the_even_or_odd_demo_shows_what_subclasses_add(demo: ModuleType, tmp_path: Path) -> None:
    assert demo.main(["--only", "subclass-kd", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "subclass-kd" / "result.json").read_text())
    assert result["gain"] > 0
    assert all(float(row[1].split()[0]) > 85 for row in result["rows"])
    assert Page((tmp_path / "index.html").read_text()).tags.count("tr") == 6


@pytest.mark.slow
def test_the_generators_demo_shows_what_distillation_adds(demo: ModuleType, tmp_path: Path) -> None:
    assert demo.main(["--only", "d2m-generator", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "d2m-generator" / "result.json").read_text())
    assert result["gains"]["1"] > 10 and result["gains"]["10"] > 0  # latents against random real images
    assert [row[0] for row in result["rows"]] == ["1 per class", "10 per class"]
    assert Page((tmp_path / "index.html").read_text()).tags.count("tr") == 3


@pytest.mark.slow
def test_the_car_demo_reaches_the_flag_in_every_episode(demo: ModuleType, tmp_path: Path) -> None:
    assert demo.main(["--only", "esac", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "esac" / "result.json").read_text())
    assert len(result["returns"]) == 10 and min(result["returns"]) > 85
    assert Page((tmp_path / "index.html").read_text()).tags.count("tr") == 4
