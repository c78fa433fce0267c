"""The modules of a few functions each: import, progress, device, figures."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import rich.console
import torch
from PIL import Image
from sextet_common import device, figures, progress
from sextet_common.errors import InputError


def test_the_import_loads_no_heavy_module() -> None:
    heavy = "numpy torch sklearn matplotlib PIL rich tyro jaxtyping"
    program = f"import sys, sextet_common; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


MODULES = ["checkpoint", "cli", "data", "device", "errors", "figures", "files", "options", "parsing", "progress"]
MODULES += ["runs", "seeding", "text"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_torch_scikit_learn_or_matplotlib(module: str) -> None:
    heavy = "('torch', 'sklearn', 'matplotlib')"
    program = f"import sys, sextet_common.{module}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_without_a_terminal_progress_prints_nothing(capfd) -> None:
    with progress.bar("work", 3) as bar:
        bar.advance(loss=1.0)
    assert list(progress.track([1, 2], "items", total=2)) == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_the_bar_shows_steps_and_values(monkeypatch) -> None:
    screen = io.StringIO()
    real = rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda stderr: real(file=screen, force_terminal=True, width=100, stderr=False)
    )
    with progress.bar("work", 4, done=1) as bar:
        bar.advance(2, loss=0.25)
    assert "work" in screen.getvalue() and "3/4" in screen.getvalue() and "loss 0.25" in screen.getvalue()


def test_only_available_devices_are_returned(monkeypatch) -> None:
    assert device.pick("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.pick("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="'cuda' is not available; expected: auto or one of: cpu"):
        device.pick("cuda")
    for unknown in ("gpu", "meta", "cuda:x", ""):
        with pytest.raises(InputError, match="is unknown; expected: auto, cpu"):
            device.pick(unknown)


def test_a_gpu_number_that_does_not_exist_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.pick("auto").type == "cuda"
    assert device.pick("cuda:1").index == 1
    with pytest.raises(InputError, match="cuda:N with N < 2"):
        device.pick("cuda:2")


def test_the_machine_is_described() -> None:
    described = device.describe()
    assert described["cpu"] and int(described["cores"]) >= 1 and described["torch"] == torch.__version__


def test_a_grid_places_every_image_and_clips(tmp_path) -> None:
    images = np.stack([np.full((1, 2, 3), value) for value in (-1.0, 0.5, 2.0)])
    picture = figures.grid(images, columns=2)
    assert picture.shape == (7, 9, 3)
    assert picture[1, 1].tolist() == [0, 0, 0]
    assert picture[1, 5].tolist() == [128, 128, 128]
    assert picture[4, 1].tolist() == [255, 255, 255]
    figures.save_grid(images, tmp_path / "grid.png", columns=2, scale=3)
    with Image.open(tmp_path / "grid.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved)[::3, ::3], picture)


@pytest.mark.parametrize("shape", [(3, 0, 4, 4), (0, 1, 4, 4), (4, 4)])
def test_images_of_an_unsupported_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="images of shape"):
        figures.grid(np.zeros(shape))


def test_panels_and_curves_are_not_blank(tmp_path) -> None:
    noise = np.random.default_rng(0).random((4, 3, 8, 8))
    figures.save_panels({"one": noise, "two": noise}, tmp_path / "panels.png", columns=4, title="Two panels")
    figures.save_curves({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, tmp_path / "c.png", x_label="x", y_label="y")
    for name in ("panels.png", "c.png"):
        with Image.open(tmp_path / name) as saved:
            assert min(saved.size) > 200 and np.asarray(saved.convert("L")).std() > 5
    assert not list(tmp_path.glob(".*"))


def test_a_panel_names_its_columns_above_them_and_its_rows_beside_them(tmp_path) -> None:
    white = np.ones((8, 1, 8, 8))
    figures.save_panels({"": white}, tmp_path / "plain.png", 4)
    figures.save_panels(
        {"": white}, tmp_path / "named.png", 4, column_names=["0", "1", "2", "$3$"], row_names=["a", "b"]
    )
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "named.png") as named:
        grey = np.asarray(named.convert("L")) < 100  # letters: neither the white images nor the grey gaps
        assert not (np.asarray(plain.convert("L")) < 100).any() and named.size[1] > plain.size[1]
    letters = grey.any(axis=0), grey.any(axis=1)
    top = grey[: grey.shape[0] // 8].any(axis=0)
    assert np.count_nonzero(np.diff(top.astype(int)) == 1) >= 4  # a name above each column
    assert letters[0][: grey.shape[1] // 8].any() and letters[1][grey.shape[0] // 4 :].any()
    with pytest.raises(InputError, match="3 names of columns"):
        figures.save_panels({"": white}, tmp_path / "wrong.png", 4, column_names=["0", "1", "2"])
    assert not (tmp_path / "wrong.png").exists()


def test_images_of_other_channels_are_drawn_in_grey_side_by_side() -> None:
    images = np.random.default_rng(0).random((2, 4, 5, 3))
    picture = figures.grid(images, columns=1)
    assert picture.shape == (2 * 6 + 1, 4 * 3 + 2, 3)
    for channel in range(4):
        square = picture[7:12, 1 + 3 * channel : 4 + 3 * channel]
        assert (square == (255 * images[1, channel]).round().astype(np.uint8)[..., None]).all()
