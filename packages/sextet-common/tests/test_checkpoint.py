from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load_file, save_file
from sextet_common import checkpoint, files
from sextet_common.errors import InputError

DTYPES = st.sampled_from(["bool", "uint8", "int16", "int64", "float16", "float32", "float64", ">f4", ">i8"])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__" and name.isprintable()),
        DTYPES.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, max_side=4))),
        max_size=3,
    ),
    st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.none(), st.booleans())),
)
def test_loading_returns_what_was_saved(tmp_path_factory, arrays: dict, meta: dict) -> None:
    path = tmp_path_factory.mktemp("c") / "x.safetensors"
    checkpoint.save(path, arrays, meta)
    loaded = checkpoint.load(path)
    assert loaded.meta == meta
    assert loaded.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded.arrays[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded.arrays[name], array)


def test_tensors_keep_their_type_shape_and_values(tmp_path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {"half": base.bfloat16(), "view": base.T[::2], "same": base, "grad": base.clone().requires_grad_()}
    checkpoint.save(tmp_path / "x", tensors)
    loaded = checkpoint.load(tmp_path / "x", "torch").arrays
    assert all(loaded[n].dtype == t.dtype and torch.equal(loaded[n], t.detach()) for n, t in tensors.items())
    with pytest.raises(InputError, match="framework='torch'"):
        checkpoint.load(tmp_path / "x", "numpy")


def test_any_safetensors_reader_reads_the_file(tmp_path) -> None:
    checkpoint.save(tmp_path / "x.safetensors", {"a": np.arange(5)})
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")["a"], np.arange(5))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "state.safetensors"
    # The description quotes a checksum field, which must not be mistaken for the file's own.
    checkpoint.save(path, {"a": np.arange(100.0), "sha256": np.ones(2)}, {"note": '"sha256":"' + "0" * 64 + '"'})
    return path


def test_any_flipped_bit_is_detected(saved) -> None:
    whole = saved.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        saved.write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.safetensors"):
            checkpoint.load(saved)
    saved.write_bytes(whole)
    assert checkpoint.load(saved).arrays["a"][99] == 99


def test_truncated_and_extended_files_are_refused(saved) -> None:
    whole = saved.read_bytes()
    for length in (0, 5, 8, 9, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"truncated|not a checkpoint"):
            checkpoint.load(saved)
    saved.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(saved)


def test_a_file_of_another_program_or_version_is_refused_by_name(tmp_path) -> None:
    foreign, newer = tmp_path / "foreign.safetensors", tmp_path / "newer.safetensors"
    save_file({"a": np.ones(2)}, foreign, metadata={"format": "pt"})
    save_file({"a": np.ones(2)}, newer, metadata={"format": checkpoint.FORMAT, "version": "2"})
    with pytest.raises(InputError, match=r"foreign\.safetensors is a safetensors file of another program"):
        checkpoint.load(foreign)
    with pytest.raises(InputError, match=r"newer\.safetensors has version 2.*update sextet-common"):
        checkpoint.load(newer)
    foreign.write_bytes(b"PK\x03\x04" + b"\xff" * 50)
    with pytest.raises(InputError, match="is not a checkpoint"):
        checkpoint.load(foreign)
    foreign.write_bytes((30).to_bytes(8, "little") + b"[" * 30)
    with pytest.raises(InputError, match="is not a checkpoint"):
        checkpoint.load(foreign)
    with pytest.raises(InputError, match="does not exist"):
        checkpoint.load(tmp_path / "missing")
    with pytest.raises(InputError, match="is a folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([object()]), np.array([1j]), "text", None, [1.0]])
def test_an_array_that_cannot_be_stored_is_named_and_nothing_is_written(tmp_path, value: object) -> None:
    with pytest.raises(InputError, match="array 'bad' is a"):
        checkpoint.save(tmp_path / "x", {"good": np.ones(2), "bad": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_a_description_that_is_not_json_is_refused(tmp_path, meta: dict) -> None:
    with pytest.raises(InputError, match="meta cannot be stored"):
        checkpoint.save(tmp_path / "x", {}, meta)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_steps_are_kept_and_temporary_files_of_killed_writers_are_deleted(tmp_path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    torn = f".step-00000001.safetensors.{files._host()}.{int(ended.stdout)}.0.tmp"
    (tmp_path / torn).write_bytes(b"torn")
    (tmp_path / "notes.txt").write_text("kept")
    for step in (1, 2, 30, 100000000, 4):
        checkpoint.save_step(tmp_path, step, {"x": np.full(2, step)}, keep=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    steps = ["00000004", "00000030", "100000000"]
    assert names == ["notes.txt", *(f"step-{step}.safetensors" for step in steps)]
    assert checkpoint.load(checkpoint.latest(tmp_path)).arrays["x"][0] == 100000000
    assert checkpoint.latest(tmp_path / "nowhere") is None
    for step, keep in ((-1, 1), (1, 0)):
        with pytest.raises(InputError):
            checkpoint.save_step(tmp_path, step, {}, keep=keep)


# Forks a writer that saves without pause, kills it at a random moment after its first save, and checks the newest
# checkpoint. The process has one thread, so forking is safe. Prints the last step and how many kills hit a write.
KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from sextet_common import checkpoint, files
import safetensors.numpy

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
random.seed(int(sys.argv[3]))
step = torn = 0
for kill in range(kills):
    saved, saves = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            checkpoint.save_step(folder, step, {"x": np.full(200_000, step)}, {"step": step}, keep=2)
            os.write(saves, b".")
    os.read(saved, 1)
    os.close(saved), os.close(saves)
    time.sleep(0.01 + 0.06 * random.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    torn += any(p.name.endswith(".tmp") for p in folder.iterdir())
    loaded = checkpoint.load(checkpoint.latest(folder))
    assert loaded.meta["step"] == loaded.arrays["x"][0] == loaded.arrays["x"][-1] >= step, (kill, loaded.meta)
    step = loaded.meta["step"]
print(step, torn)
"""


def test_a_writer_killed_at_sixty_random_moments_always_leaves_an_intact_newest_file(tmp_path) -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILL_LOOP, str(tmp_path), "60", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    steps, torn = map(int, done.stdout.split())
    assert steps >= 60, "every writer wrote"
    assert torn > 10, "the kills fell inside writes, so the test tested something"


def test_the_header_names_format_and_version(saved) -> None:
    raw = saved.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert (header["format"], header["version"]) == ("sextet-checkpoint", "1")
