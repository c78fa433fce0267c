from __future__ import annotations

import errno
import json
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from sextet_common import checkpoint, image_files, npy, runs, training
from sextet_common.errors import STRUCTURE, InputError, reading


@pytest.mark.parametrize(
    "failure",
    [
        OSError("no reason given"),
        UnidentifiedImageError("no image"),
        ValueError("a"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        json.JSONDecodeError("no value", "", 0),
        EOFError("early"),
        OverflowError("too large"),
        MemoryError(),
        RecursionError("deep"),
        zipfile.BadZipFile("no archive"),
        zlib.error("wrong checksum"),
        struct.error("too short"),
        SafetensorError("no header"),
        Image.DecompressionBombError("large"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_what_parsers_raise_becomes_one_error_that_names_the_file(failure: Exception) -> None:
    message = r"^a\.bin cannot be read: .+; expected: a table$"
    with pytest.raises(InputError, match=message) as caught, reading("a.bin", "a table"):
        raise failure
    assert caught.value.__cause__ is failure


class Ours:
    """A class whose missing attribute is a mistake of ours."""


def missing_attribute() -> None:
    Ours().shape  # type: ignore[attr-defined]  # noqa: B018


def missing_name() -> None:
    no_such_name  # type: ignore[name-defined]  # noqa: B018, F821


def missing_function() -> None:
    json.read_text("a.json")  # type: ignore[attr-defined]


def failure(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


MISTAKES = [
    missing_attribute,
    missing_name,
    missing_function,
    failure(AssertionError("impossible")),
    failure(ImportError("no module")),
    failure(AttributeError("raised by hand")),
    failure(RuntimeError("of ours")),
    failure(NotImplementedError()),
    failure(ZeroDivisionError()),
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_programming_mistake_passes_as_the_bug_it_is(mistake: Any) -> None:
    for also in ((), STRUCTURE):
        with pytest.raises(Exception) as caught, reading("a.json", "a table", *also):
            mistake()
        assert not isinstance(caught.value, InputError)


def test_a_missing_key_or_a_wrong_type_is_bad_input_only_where_the_caller_says_so() -> None:
    for failing in (lambda: {}["step"], lambda: [][0], lambda: float([]), lambda: [].items()):  # type: ignore
        with pytest.raises(STRUCTURE), reading("a.json", "a table"):
            failing()
        with pytest.raises(InputError, match="cannot be read"), reading("a.json", "a table", *STRUCTURE):
            failing()


@pytest.mark.parametrize("array", [np.zeros(2), json.loads("null"), json.loads('"text"'), json.loads("[1]")])
def test_a_missing_attribute_of_plain_data_is_of_another_structure(array: Any) -> None:
    with pytest.raises(InputError, match="cannot be read"), reading("a.json", "a table", *STRUCTURE):
        array.keys()


def test_an_error_is_one_short_line_that_controls_no_terminal() -> None:
    error = InputError("the name '\x1b]0;owned\x07\ncat'", "a\u202eb" + "c" * 100_000)
    assert str(error).isprintable() and error.given == r"the name '\x1b]0;owned\x07 cat'"
    assert error.expected.startswith(r"a\u202ebccc") and "…" in error.expected and len(str(error)) < 3000
    assert str(InputError("Grüße, 猫")) == "Grüße, 猫"


def test_a_library_that_is_not_imported_is_not_imported_to_name_its_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "safetensors", raising=False)
    with pytest.raises(InputError), reading("a.json", "a table"):
        raise ValueError
    assert "safetensors" not in sys.modules
    monkeypatch.setitem(sys.modules, "safetensors", ModuleType("safetensors"))  # another version, without that name
    with pytest.raises(InputError), reading("a.json", "a table"):
        raise ValueError


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV])
def test_an_error_of_the_disk_is_one_line_without_its_number(code: int) -> None:
    with pytest.raises(InputError) as caught, reading("run", "a run folder"):
        raise OSError(code, os.strerror(code), "run/config.json")
    assert str(caught.value) == f"run/config.json cannot be read: {os.strerror(code)}; expected: a run folder"
    with pytest.raises(InputError) as caught, reading("run", "a run folder"):
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == f"run cannot be read: {os.strerror(code)}; expected: a run folder"


def test_paths_that_no_system_opens_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "file").touch()
    for path in (tmp_path / "loop", tmp_path / "gone", tmp_path / ("x" * 300), tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(InputError) as caught, reading(path, "a file"):
            path.read_bytes()
        assert "Errno" not in str(caught.value) and str(tmp_path) in str(caught.value)


# Each entry reads a sound file while one function of ours that it calls is broken.
def read_a_checkpoint(folder: Path) -> None:
    checkpoint.save(folder / "x.safetensors", {"x": np.zeros(2)}, {})
    checkpoint.load(folder / "x.safetensors")


def read_arrays(folder: Path) -> None:
    np.savez(folder / "x.npz", x=np.zeros(2))
    npy.read_npz(folder / "x.npz", ["x"])


def read_an_image(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    image_files.decode((folder / "x.png").read_bytes(), "x.png")


def read_metrics(folder: Path) -> None:
    run = runs.Run.open(folder / "run", "demo", {})
    run.log(1, loss=0.5)
    run.rewind(1)


class Average(training.Job):
    """A job of two numbers."""

    steps = 2
    framework = "numpy"

    def __init__(self) -> None:
        self.mean = np.zeros(2)

    def step(self, number: int) -> dict[str, float]:
        self.mean += number
        return {"loss": float(self.mean.sum())}

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state(self, state: Any) -> None:
        self.mean = state["mean"]


def resume(folder: Path) -> None:
    for _ in range(2):
        training.run(Average(), name="demo", out=folder / "run", bar=False)


@pytest.mark.parametrize("mistake", [missing_attribute, missing_name])
@pytest.mark.parametrize(
    ("read", "module", "name"),
    [
        (read_a_checkpoint, checkpoint, "_verify"),
        (read_a_checkpoint, checkpoint, "_read_arrays"),
        (read_arrays, npy, "_read_member"),
        (read_arrays, npy, "_check_header"),
        (read_an_image, image_files.files, "check_growth"),
        (read_metrics, runs.Run, "metrics"),
        (resume, Average, "load_state"),
    ],
)
def test_a_mistake_inside_our_own_readers_is_not_dressed_as_bad_input(
    read: Any, module: Any, name: str, mistake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, lambda *_, **__: mistake())
    with pytest.raises((AttributeError, NameError)):
        read(tmp_path)
