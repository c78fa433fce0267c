from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as npst
from sextet_common import npy
from sextet_common.errors import InputError

DTYPES = st.sampled_from(["?", "u1", ">i2", "i8", "f2", ">f4", "f8", "c16", "U3", "S2"])
ARRAYS = DTYPES.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0, max_side=4)))


@settings(max_examples=100, deadline=None)
@given(ARRAYS, st.booleans(), st.booleans())
def test_files_written_by_numpy_are_read_as_numpy_reads_them(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, fortran: bool, squeezed: bool
) -> None:
    folder = tmp_path_factory.mktemp("n")
    array = np.asfortranarray(array) if fortran else array
    np.save(folder / "a.npy", array)
    (np.savez_compressed if squeezed else np.savez)(folder / "a.npz", a=array, b=np.ones(2))
    for found in (
        npy.read_npy(folder / "a.npy"),
        npy.read_npy(folder / "a.npy", mapped=True),
        npy.read_npz(folder / "a.npz", ["a"], ["c"])["a"],
    ):
        assert found.dtype == array.dtype and found.shape == array.shape
        np.testing.assert_array_equal(found, array)


def file(header: str, data: bytes = b"", *, version: int = 1, length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + header.encode() + data
    )


def header(shape: str = "(2,)", descr: str = "'<f8'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (file(header("(10**12,)"), bytes(16)), "cannot be read"),
        (file(header("(1000000000000,)"), bytes(16)), "claims .* and has 16 bytes"),
        (file(header("(-1, -2)"), bytes(16)), "claims"),
        (file(header("(1,)"), bytes(16)), "claims"),
        (file(header("(0, 4000000000, 4000000000)")), "claims"),
        (file(header("(1000,) * 99")), "cannot be read"),
        (file(header(descr="'|O'"), bytes(16)), "holds values of object"),
        (file(header(descr="[('a', '<f8')]"), bytes(16)), "holds values of"),
        (file(header(descr="'<U0'")), "holds values of"),
        (file(header(), bytes(16), version=3), "version 3.0"),
        (file(header(), bytes(16), version=2, length=2**32 - 1), "cannot be read"),
        (file("{'descr': '<f8'"), "cannot be read"),
        (file("'''"), "cannot be read"),  # a TokenError
        (file(header(), bytes(16))[:-1], "claims"),
        (b"", "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
    ],
)
@pytest.mark.parametrize("mapped", [True, False])
def test_a_header_must_match_the_size_of_the_file(tmp_path: Path, content: bytes, fault: str, mapped: bool) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.npy cannot be read: .*{fault}|a\.npy {fault}"):
        npy.read_npy(tmp_path / "a.npy", mapped=mapped)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(InputError, match=r"a\.npz cannot be read"):
        npy.read_npz(tmp_path / "a.npz", ["a"])


def test_headers_of_version_2_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(file(header(), np.array([1.5, 2.5]).tobytes(), version=2))
    assert npy.read_npy(tmp_path / "a.npy").tolist() == [1.5, 2.5]


def test_an_array_is_mapped_only_on_request(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    read, mapped = npy.read_npy(tmp_path / "a.npy"), npy.read_npy(tmp_path / "a.npy", mapped=True)
    assert not isinstance(read, np.memmap) and read.flags.writeable
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable


@pytest.mark.parametrize("descr", ["'|u1'", "'<f8'"])
def test_an_empty_array_may_have_rows_of_256_mib(tmp_path: Path, descr: str) -> None:
    values = (1 << 28) // np.dtype(descr.strip("'")).itemsize
    (tmp_path / "a.npy").write_bytes(file(header(f"(0, {values})", descr)))
    assert npy.read_npy(tmp_path / "a.npy").shape == (0, values)
    (tmp_path / "a.npy").write_bytes(file(header(f"(0, {values + 1})", descr)))
    with pytest.raises(InputError, match="claims"):
        npy.read_npy(tmp_path / "a.npy")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"a\.npz cannot be read: a\.npy holds values of object"):
        npy.read_npz(tmp_path / "a.npz", ["a"])


def test_a_missing_array_or_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(1))
    with pytest.raises(InputError, match=r"a\.npz has no array 'b'; expected: an \.npz file with a, b"):
        npy.read_npz(tmp_path / "a.npz", ["a", "b"])
    with pytest.raises(InputError, match="does not exist; expected: seven numbers"):
        npy.read_npy(tmp_path / "b.npy", expected="seven numbers")
    with pytest.raises(InputError, match="is a folder"):
        npy.read_npy(tmp_path)


def member(content: bytes, *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.npy", content, method)
    return packed.getvalue()


def test_content_that_unpacks_to_a_hundred_times_its_file_is_refused_before_unpacking(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(member(file(header(f"({65 << 20},)", "'|u1'"), bytes(65 << 20))))
    with pytest.raises(InputError, match=r"a\.npz unpacks to .*; expected: at most 67108864"):
        npy.read_npz(tmp_path / "a.npz", ["a"])
    noise = np.random.default_rng(0).integers(256, size=1 << 20, dtype=np.uint8)  # a file large enough for its zeros
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(65 << 20, dtype=np.uint8), noise=noise)
    assert npy.read_npz(tmp_path / "b.npz", ["a"])["a"].shape == (65 << 20,)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_methods_that_can_allocate_gigabytes_are_refused(tmp_path: Path, method: int) -> None:
    (tmp_path / "a.npz").write_bytes(member(file(header(), bytes(16)), method=method))
    with pytest.raises(InputError, match="not stored or deflated"):
        npy.read_npz(tmp_path / "a.npz", ["a"])


def test_a_member_whose_size_differs_from_the_archive_directory_is_refused(tmp_path: Path) -> None:
    whole = member(file(header(), bytes(16)))
    size = len(file(header(), bytes(16))).to_bytes(4, "little")
    for wrong in (1, 100, 10**6):
        changed = whole.replace(size, (int.from_bytes(size, "little") + wrong).to_bytes(4, "little"))
        assert changed != whole
        (tmp_path / "a.npz").write_bytes(changed)
        with pytest.raises(InputError, match=r"a\.npz cannot be read"):
            npy.read_npz(tmp_path / "a.npz", ["a"])


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as Unix does")
@pytest.mark.parametrize("limit", [50, 200, 1000])
def test_a_file_that_does_not_fit_is_an_error_and_no_short_file(tmp_path: Path, limit: int) -> None:
    code = (
        "import resource, sys, numpy as np; from sextet_common import npy;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); npy.write(sys.argv[1], np.arange(200))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.npy")], capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr


def test_arrays_of_any_order_and_shape_are_written_as_numpy_writes_them(tmp_path: Path) -> None:
    for array in (np.arange(12.0).reshape(3, 4), np.arange(12).reshape(3, 4).T, np.float32(2), np.zeros((0, 3))):
        npy.write(tmp_path / "x.npy", np.asarray(array))
        np.save(tmp_path / "y.npy", array)
        assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
