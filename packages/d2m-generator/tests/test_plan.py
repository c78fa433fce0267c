"""Plans of images: subsets, counts per class, selection, and the parts that a resumed job or a process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from d2m_generator import ConditionalGAN, Plan, StreamedSet, batches, stream, synthesize
from d2m_generator.images import plan as plans, stream as streams
from sextet_common.errors import InputError


def gan() -> ConditionalGAN:
    return ConditionalGAN(4, (1, 8, 8), width=4, noise=6, seed=2)


def test_image_j_of_a_class_is_the_same_in_every_plan_and_part_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "BATCH", 7)
    whole = {
        label: gan().sample(torch.full((9,), label), noise=noise).clamp(0, 1).detach().numpy()
        for label in range(4)
        for noise in [plans.noise_of(range(9), (6,), 5, label)]
    }
    plan = Plan(ipc=(9, 2, 4), seed=5, labels=(3, 0, 2))
    expected = np.concatenate([whole[3], whole[0][:2], whole[2][:4]])
    made = list(batches(gan(), plan))
    assert [len(batch.labels) for batch in made] == [7, 7, 1]
    np.testing.assert_allclose(np.concatenate([batch.pixels for batch in made]), expected, atol=1e-6)
    assert np.concatenate([batch.labels for batch in made]).tolist() == [3] * 9 + [0] * 2 + [2] * 4
    parts = [batch for rows in (range(5), range(5, 15)) for batch in batches(gan(), plan, rows)]
    np.testing.assert_allclose(np.concatenate([batch.pixels for batch in parts]), expected, atol=1e-6)
    assert [row for batch in parts for row in batch.rows] == list(range(15))


@pytest.mark.parametrize("selection", ["herding", "diverse"])
def test_a_set_on_disk_selects_as_one_in_memory_and_in_any_parts(
    selection: plans.Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_BLOCK", 3)
    memory = synthesize(gan(), (4, 2), 1, selection, labels=(1, 3))
    disk = stream(gan(), (4, 2), tmp_path / "s", 1, selection, labels=(1, 3))
    assert memory.labels.tolist() == disk.labels.tolist() == [1] * 4 + [3] * 2
    assert np.abs(disk.pixels / np.float32(255) - memory.pixels()).max() < 0.5 / 255 + 1e-5
    assert disk.meta["ipc"] == [4, 2] and disk.meta["labels"] == [1, 3] and selection in disk.meta["method"]


STREAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_plan import gan, stream, streams
streams._BLOCK = 10
killed = int(sys.argv[3])

class Killed(streams._Stream):
    def step(self, number):
        if number == killed:
            os._exit(9)
        return super().step(number)

streams._Stream = Killed
stream(gan(), 12, Path(sys.argv[2]), 3)
"""


def run_stream(folder: Path, killed: int = -1) -> int:
    command = [sys.executable, "-c", STREAM, str(Path(__file__).parent), str(folder), str(killed)]
    return subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def test_a_killed_stream_resumes_and_is_no_set_before(tmp_path: Path) -> None:
    assert run_stream(tmp_path / "s", killed=3) == 9
    with pytest.raises(InputError, match="does not exist"):
        StreamedSet.open(tmp_path / "s")
    reserved = np.load(tmp_path / "s" / "images.npy")
    assert len(reserved) == 48 and reserved[:30].any(axis=(1, 2, 3)).all() and not reserved[30:].any()
    assert run_stream(tmp_path / "s") == 0
    whole = stream(gan(), 12, tmp_path / "whole", 3)
    assert (StreamedSet.open(tmp_path / "s").pixels == whole.pixels).all()
    rewritten = tmp_path / "s" / "set.json"
    before = rewritten.stat().st_mtime_ns
    assert run_stream(tmp_path / "s") == 0 and rewritten.stat().st_mtime_ns == before  # nothing is left to do


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_datasets_opens_an_export_of_a_set_on_disk(layout: streams.Layout, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = stream(gan(), 3, tmp_path / "s")
    made.export(tmp_path / "hub", layout)
    rows = datasets.load_dataset(str(tmp_path / "hub"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["label"] == made.labels.tolist() and rows.features["label"].names == list(made.classes)
    assert all((np.array(row["image"]) == pixels[0]).all() for row, pixels in zip(rows, made.pixels, strict=True))


def test_a_subset_of_the_classes_keeps_their_numbers_in_parquet_and_is_no_image_folder(tmp_path: Path) -> None:
    made = stream(gan(), 2, tmp_path / "s", labels=(1, 3))
    with pytest.raises(InputError, match="class '0' has no image; expected: parquet"):
        made.export(tmp_path / "hub", "imagefolder")
    with pytest.raises(InputError, match="class '0' has 0 images"):
        made.distilled(synthesize(gan(), 1).preprocessing, ipc=1)
