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
    with pytest.raises(InputError, match=r"foreign\.safetensors is truncated or not a checkpoint"):
        checkpoint.load(foreign)
    with pytest.raises(InputError, match=r"newer\.safetensors has version 2.*update sextet-common"):
        checkpoint.load(newer)
    foreign.write_bytes(b"PK\x03\x04" + b"\xff" * 50)
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.load(foreign)
    foreign.write_bytes((30).to_bytes(8, "little") + b"[" * 30)
    with pytest.raises(InputError, match="not a checkpoint"):
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
        checkpoint.save_step(tmp_path, step, {"x": np.full(2, step)})
    names = sorted(path.name for path in tmp_path.iterdir())
    steps = ["00000030", "100000000"]
    assert names == ["notes.txt", *(f"step-{step}.safetensors" for step in steps)]
    assert checkpoint.load(checkpoint.latest(tmp_path)).arrays["x"][0] == 100000000
    assert checkpoint.latest(tmp_path / "nowhere") is None
    with pytest.raises(InputError, match="step must be a whole number >= 0, got -1"):
        checkpoint.save_step(tmp_path, -1, {})


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
            checkpoint.save_step(folder, step, {"x": np.full(200_000, step)}, {"step": step})
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


def hashes(folder, order: list[str], hash_seed: str, kind: str) -> str:
    """Save the same content in another process, in an order of names, and return the file's SHA-256."""
    script = f"""
import hashlib, sys
import numpy as np
from sextet_common import checkpoint
arrays = {{
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([True, False]), "half": np.ones(3, "f2"),
    "steps": np.int64(7), "bytes": np.arange(3, dtype=np.uint8), "empty": np.zeros((0, 2)), "b": np.zeros(2, "f4"),
    "unicode \u00e9": np.arange(4.0), "big": np.arange(3).astype(">i4"),
}}
if {kind!r} == "torch":
    import torch
    arrays = {{n: torch.as_tensor(np.asarray(a, dtype=a.dtype.newbyteorder("="))) for n, a in arrays.items()}}
    arrays["weights"] = arrays["weights"].T.contiguous().T  # another layout in memory
    arrays["a"].requires_grad_(False)
arrays = {{name: arrays[name] for name in {order!r}}}
meta = {{key: {{"z": 1, "a": [1, 2.5, None]}} for key in {order!r}}}
checkpoint.save(sys.argv[1], arrays, meta)
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(folder / f"{hash_seed}.safetensors")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.strip()


def test_the_same_content_is_the_same_file_in_any_order_process_and_framework(tmp_path) -> None:
    names = ["weights", "a", "half", "steps", "bytes", "empty", "b", "unicode \u00e9", "big"]
    found = {
        hashes(tmp_path, names, "0", "numpy"),
        hashes(tmp_path, names[::-1], "1", "numpy"),
        hashes(tmp_path, sorted(names), "2", "torch"),
    }
    assert len(found) == 1
    again = load_file(tmp_path / "2.safetensors")
    np.testing.assert_array_equal(again["weights"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert again["steps"].shape == () and again["empty"].shape == (0, 2) and again["big"].tolist() == [0, 1, 2]


def test_every_array_is_aligned_and_the_layout_is_that_of_safetensors(tmp_path) -> None:
    arrays = {"u": np.arange(3, dtype=np.uint8), "d": np.arange(2.0), "f": np.ones(3, np.float32), "b": np.ones(1, "?")}
    checkpoint.save(tmp_path / "x", arrays, {"note": "x" * 5})
    raw = (tmp_path / "x").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    for name, array in arrays.items():
        begin, end = header[name]["data_offsets"]
        assert begin % array.itemsize == 0 and raw[8 + length + begin : 8 + length + end] == array.tobytes()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "uint16", "uint32", "int8", "bool"])
def test_every_torch_type_comes_back(tmp_path, dtype: str) -> None:
    tensor = torch.tensor([0.0, 1.0, 2.0, 0.5]).to(getattr(torch, dtype))
    checkpoint.save(tmp_path / "x", {"a": tensor})
    loaded = checkpoint.load(tmp_path / "x", "torch").arrays["a"]
    assert loaded.dtype == tensor.dtype and torch.equal(loaded.view(torch.uint8), tensor.view(torch.uint8))


def test_a_file_of_the_earlier_writer_loads(tmp_path) -> None:
    # Written as before the canonical layout: by safetensors, the digest computed over its header with zeros.
    import hashlib

    zeros = "0" * 64
    metadata = {"format": checkpoint.FORMAT, "version": "1", "meta": '{"step": 4}', "sha256": zeros}
    save_file({"b": np.arange(3.0), "a": np.ones(2, np.float16)}, tmp_path / "x", metadata=metadata)
    raw = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(raw.replace(zeros.encode(), hashlib.sha256(raw).hexdigest().encode()))
    loaded = checkpoint.load(tmp_path / "x")
    assert loaded.meta == {"step": 4} and loaded.arrays["b"].tolist() == [0, 1, 2]


def test_a_file_follows_the_umask(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        path = checkpoint.save_step(tmp_path / "c", 1, {"x": np.ones(1)})
    finally:
        os.umask(before)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o644, 0o755)


def faulty(path, fault: str) -> None:
    """Damage a checkpoint in one way."""
    whole = path.read_bytes()
    position = {"first": 0, "header": 40, "data": len(whole) - 3}.get(fault)
    if position is not None:
        changed = bytearray(whole)
        changed[position] ^= 0x10
        path.write_bytes(changed)
    elif fault == "version":
        path.write_bytes(whole.replace(b'"version":"1"', b'"version":"3"'))
    elif fault == "foreign":
        save_file({"a": np.ones(2)}, path)
    elif fault == "archive":
        path.write_bytes(b"PK\x03\x04" + whole)
    elif fault == "no step":
        checkpoint.save(path, {"a": np.ones(2)}, {})
    elif fault == "negative":
        checkpoint.save(path, {"a": np.ones(2)}, {"step": -3})
    elif fault == "zeros":  # as some file systems leave a file after a power failure
        path.write_bytes(bytes(len(whole)))
    else:
        path.write_bytes(whole[: {"empty": 0, "prefix": 5, "truncated": len(whole) // 2, "short": -1}[fault]])


FAULTS = ["first", "header", "data", "version", "foreign", "archive", "no step", "negative", "zeros"]
FAULTS += ["empty", "prefix", "truncated", "short"]


@pytest.mark.parametrize("fault", FAULTS)
def test_of_a_damaged_newest_checkpoint_the_previous_one_is_loaded_and_said(tmp_path, fault: str) -> None:
    for step in (10, 20):
        checkpoint.save_step(tmp_path, step, {"x": np.full(50, step)}, {"step": step})
    faulty(tmp_path / "step-00000020.safetensors", fault)
    with pytest.warns(UserWarning, match=r"step-00000020\.safetensors is .*; resumed from step-00000010") as told:
        loaded = checkpoint.load_newest(tmp_path)
    assert len(told) == 1
    assert loaded is not None and loaded.meta["step"] == loaded.arrays["x"][0] == 10
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000010.safetensors", "step-00000020.safetensors.damaged"]
    checkpoint.save_step(tmp_path, 15, {"x": np.ones(1)}, {"step": 15})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000010.safetensors", "step-00000015.safetensors"]


def test_without_a_whole_checkpoint_all_are_named_and_kept(tmp_path) -> None:
    assert checkpoint.load_newest(tmp_path) is None and checkpoint.load_newest(tmp_path / "none") is None
    for step, fault in ((10, "truncated"), (20, "data")):
        checkpoint.save_step(tmp_path, step, {"x": np.full(50, step)}, {"step": step})
        faulty(tmp_path / f"step-000000{step}.safetensors", fault)
    with pytest.raises(InputError, match=r"20\.safetensors is .*damaged.*10\.safetensors is truncated.*expected"):
        checkpoint.load_newest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_newer_version_is_no_damage(tmp_path) -> None:
    checkpoint.save_step(tmp_path, 1, {"x": np.ones(2)}, {"step": 1})
    metadata = {"format": checkpoint.FORMAT, "version": "2"}
    save_file({"a": np.ones(2)}, tmp_path / "step-00000002.safetensors", metadata=metadata)
    with pytest.raises(InputError, match="update sextet-common"):
        checkpoint.load_newest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path) -> None:
    limit = """
import resource, sys
import numpy as np
from sextet_common import checkpoint
from sextet_common.errors import InputError
checkpoint.save_step(sys.argv[1], 1, {"x": np.ones(10)}, {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # EFBIG in the middle of a write
try:
    checkpoint.save_step(sys.argv[1], 2, {"x": np.ones(100_000)}, {"step": 2})
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", limit, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "step-00000002.safetensors cannot be written: File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
    assert checkpoint.load(tmp_path / "step-00000001.safetensors").arrays["x"].sum() == 10
