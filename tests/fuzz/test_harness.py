"""The harness detects readers that break one promise each."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import MEMORY, holds
from hostile import dumped, npy, signed, taken_apart, with_bomb
from sextet_common import checkpoint
from sextet_common.errors import InputError


def outside(path: Path) -> bytes:
    return (path / json.loads((path / "table.json").read_text())["image"]).read_bytes()


def starving(path: Path) -> None:
    try:
        bytearray(3 * MEMORY // 2)
    except MemoryError as error:
        raise InputError(f"{path} is too large") from error


BROKEN: dict[str, Callable[[Path], Any]] = {
    "another error": lambda path: int("a"),
    "memory": starving,
    "a write beside the folder": lambda path: Path(f"{path}.new").write_text("new"),
    "a folder made beside it": lambda path: (path.parent / "new").mkdir(),
    "a file of the system": lambda path: Path("/etc/hostname").exists() and Path("/etc/hostname").read_text(),
    "a process": lambda path: subprocess.run([sys.executable, "-c", ""]),
    "pickle": lambda path: pickle.loads(pickle.dumps(os.getcwd)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_reader_that_breaks_a_promise_is_detected(broken: str) -> None:
    if broken == "memory" and not sys.platform.startswith("linux"):
        pytest.skip("nothing limits the memory here")
    with pytest.raises((AssertionError, ValueError)) as caught:
        holds(BROKEN[broken], {"table.json": b"{}"}, "folder")
    assert not isinstance(caught.value, InputError)


def test_a_path_in_a_file_is_detected_only_if_it_leaves_the_folder() -> None:
    files = {"a.png": b"image", "table.json": b'{"image": "a.png"}'}
    assert holds(outside, files, "folder") == b"image"
    for path in ("../a.png", "../../a.png", "/etc/passwd"):
        with pytest.raises(AssertionError, match="outside of the folder"):
            holds(outside, {**files, "table.json": json.dumps({"image": path}).encode()}, "folder")


def test_a_reader_that_refuses_or_returns_a_value_passes() -> None:
    def refuse(path: Path) -> None:
        raise InputError(f"{path} is bad")

    assert holds(refuse, b"x") is None
    assert holds(Path.read_bytes, b"x") == b"x"
    with pytest.raises(ZeroDivisionError):
        holds(Path.read_bytes, b"x", sound=lambda value: 1 / 0)


def test_a_checkpoint_with_a_recomputed_checksum_equals_the_saved_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", {"x": np.arange(3)}, {"a": [1, "b"]})
    content = (tmp_path / "a").read_bytes()
    header, meta, data = taken_apart(content)
    assert meta == {"a": [1, "b"]}
    header["__metadata__"]["sha256"] = "0" * 64
    (tmp_path / "b").write_bytes(signed(dumped(header), data))
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "b").arrays["x"], [0, 1, 2])


@pytest.mark.parametrize("honest", [True, False])
def test_a_zip_bomb_is_small_and_unpacks_to_the_expected_size(honest: bool, tmp_path: Path) -> None:
    array = np.ones((2, 3), dtype=np.float32)
    content = with_bomb([("b.npy", npy(array))], "a", array, honest=honest)
    assert len(content) < MEMORY / 500
    (tmp_path / "a.npz").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive, archive.open("a.npy") as member:
        assert archive.namelist() == ["b.npy", "a.npy"]
        assert (archive.getinfo("a.npy").file_size > MEMORY) == honest
        head = member.read(128)
        assert head.startswith(b"\x93NUMPY") and (b"3), }" in head)
        if honest:
            assert not any(member.read(1 << 20))
