"""Malicious files: strategies that generate the bytes of an invalid file from the content of a valid one.

Tests use ``mutated``, ``documents``, ``archives``, ``npy_files``, ``checkpoints`` and ``tables``; the rest are their
parts.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any

import numpy as np
from harness import MEMORY
from hypothesis import strategies as st

BOMB = 3 * MEMORY // 2  # bytes of zeros in a zip bomb: more than a reader may allocate

# ---------------------------------------------------------------------------------------------------------------------
# Bytes
# ---------------------------------------------------------------------------------------------------------------------


class Content(bytes):
    """A file's bytes, abbreviated when a failure prints them."""

    def __repr__(self) -> str:
        return bytes.__repr__(self) if len(self) < 3000 else f"<{len(self)} bytes: {self[:1500]!r} ... {self[-500:]!r}>"


def _content(function: Callable[..., bytes]) -> Callable[..., st.SearchStrategy[bytes]]:
    """Turn a function that draws a file's bytes into a strategy."""
    made = st.composite(function)
    return wraps(function)(lambda *words, **named: made(*words, **named).map(Content))


_INTERESTING = st.sampled_from(
    [b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x80", b"-"]
)


@_content
def mutated(draw: st.DrawFn, valid: bytes, most: int = 5) -> bytes:
    """Give the bytes with some flipped, inserted, deleted, doubled, moved or cut off."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(["flip", "set", "insert", "delete", "double", "cut", "head"]))
        # Headers are short and important: half of the positions are near the start or the end.
        near = draw(st.sampled_from([0, 0, 1, 2]))
        offset = draw(st.integers(0, max(0, (len(content) if not near else min(len(content), 120)) - 1)))
        place = len(content) - 1 - offset if near == 2 else offset
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            value = draw(_INTERESTING)
            content[place : place + len(value)] = value
        elif kind == "insert":
            content[place:place] = draw(st.one_of(_INTERESTING, st.binary(min_size=1, max_size=8)))
        elif kind == "delete":
            del content[place : place + length]
        elif kind == "double":
            content[place:place] = content[place : place + length]
        elif kind == "cut":
            del content[place:]
        elif kind == "head":
            del content[:place]
    return bytes(content)


# ---------------------------------------------------------------------------------------------------------------------
# JSON
# ---------------------------------------------------------------------------------------------------------------------


class Raw(str):
    """A piece of JSON as it stands, valid or not."""


_HOSTILE_TEXT = [
    "", "x", "../file", "../../etc/passwd", "/etc/passwd", "a/../../b", "\0", "\ud800", "con\n", "%s%n", "é" * 300,
    "__metadata__", "nan", "1e999", "NaN", "0x10", "-1", "C:\\windows", "~/x", "file:///etc/passwd", ".", "..",
]  # fmt: skip
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 5e-324, 2**31, 2**63, 2**64, -(2**63) - 1, 10**18, *_HOSTILE_TEXT,
    [], {}, [[]], [None], [1, "a"], {"a": 1}, [1e308, 1e308], [[0.0]], [[1], [1, 2]], [True], ["\ud800"], [10**400],
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999"), Raw("1" + "0" * 400),
    Raw("1" + "0" * 5000), Raw("[" * 5000 + "]" * 5000), Raw("[" * 100_000), Raw('{"a":' * 2000 + "1" + "}" * 2000),
    Raw('"\\ud800"'), Raw('"\\udc00\\ud800"'), Raw("0.1e-999"), Raw("[NaN]"), Raw("[1e999, 2]"), Raw("'a'"), Raw("+1"),
]  # fmt: skip


def dumped(value: Any) -> str:
    """Return a value as JSON, the raw pieces in it as they stand."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{dumped(v)}" for k, v in value) + "}"
    if isinstance(value, dict):
        return dumped(Pairs(value.items()))
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumped, value)) + "]"
    return json.dumps(value)


class Pairs(list[tuple[str, Any]]):
    """An object whose names may come twice."""


@st.composite
def values(draw: st.DrawFn, valid: Any, most: int = 3) -> Any:
    """Give a JSON value some of whose parts are replaced, missing, doubled, renamed or wrapped; for :func:`dumped`."""
    changed = valid
    for _ in range(draw(st.integers(1, most))):
        changed = _worse(draw, changed)
    return changed


def _worse(draw: st.DrawFn, value: Any) -> Any:
    """Change one part of a value, the deeper ones as often as the value itself."""
    inner = isinstance(value, dict | list) and not isinstance(value, Raw) and len(value) > 0
    if inner and draw(st.integers(0, 5)):
        pairs = isinstance(value, Pairs)
        key: Any = draw(st.sampled_from(sorted(value, key=str))) if isinstance(value, dict) else None
        if isinstance(value, list):
            key = draw(st.integers(0, len(value) - 1))
        changed = Pairs(value) if pairs else value.copy()
        kind = draw(st.sampled_from(["in"] * 6 + ["missing", "again", "renamed"]))
        if kind == "in":
            changed[key] = (value[key][0], _worse(draw, value[key][1])) if pairs else _worse(draw, value[key])
        elif kind == "missing":
            del changed[key]
        elif isinstance(value, dict):
            other = [(draw(st.sampled_from(_HOSTILE_TEXT)), value[key])] if kind == "renamed" else []
            again = [(key, _worse(draw, value[key]))] if kind == "again" else []
            return Pairs([*((k, v) for k, v in value.items() if k != key or kind == "again"), *again, *other])
        else:
            changed.insert(key, value[key])
        return changed
    options = [st.sampled_from(HOSTILE), st.just([value]), st.just({"a": value})]
    if isinstance(value, str):
        options += [st.text(max_size=4).map(lambda added: value + added), st.just(value[:-1]), st.just(value.upper())]
    if isinstance(value, int | float) and not isinstance(value, bool):
        options += [st.just(-value), st.just(value + 1), st.just(value * 10**9), st.just(str(value)), st.floats()]
    if isinstance(value, list) and value:
        options += [st.just([*value, value[0]]), st.just(value[1:]), st.just(value * 100)]
    return draw(st.one_of(options))


def documents(valid: Any) -> st.SearchStrategy[bytes]:
    """Give the bytes of a JSON file with hostile parts, sometimes damaged as well."""
    text = values(valid).map(lambda value: dumped(value).encode("utf-8", "surrogatepass"))
    return st.one_of(text, text, text, mutated(json.dumps(valid).encode()), st.sampled_from(_NO_DOCUMENTS)).map(Content)


_NO_DOCUMENTS = [
    b"", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"null", b"[]", b"{}", b"0", b'""', b"[" * 200_000, b'{"a":' * 100_000,
    b"{" + b'"a":1,' * 1000 + b'"b":2}', b"\0" * 1000, b"nan", b"1" * 10_000,
]  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# NumPy's files
# ---------------------------------------------------------------------------------------------------------------------

_DTYPES = ["<f8", ">f4", "<f2", "|b1", "|u1", "<i8", ">i2", "<u8", "<c16", "<U3", "|S2", "<M8[s]", "<m8[s]"]
_VALUES = [0, 1, -1, 0.5, 2, 255, 1e30, 1e308, -1e308, 2.0**62, math.nan, math.inf, -math.inf, 5e-324]


@st.composite
def arrays(draw: st.DrawFn, valid: Mapping[str, np.ndarray], most: int = 3) -> dict[str, np.ndarray]:
    """Give the arrays, some of them missing, of another shape or type, or with values from elsewhere."""
    changed = dict(valid)
    for _ in range(draw(st.integers(1, most))):
        if not changed:
            break
        name = draw(st.sampled_from(sorted(changed)))
        changed[name] = array = np.array(changed[name])
        kind = draw(st.sampled_from(["missing", "dtype", "value", "value", "fill", "shape", "size", "renamed"]))
        if kind == "missing":
            del changed[name]
        elif kind == "renamed":
            changed[draw(st.sampled_from([f"{name}2", name.upper(), "x", *valid]))] = changed.pop(name)
        elif kind == "dtype":
            with np.errstate(all="ignore"):
                changed[name] = _cast(array, draw(st.sampled_from(_DTYPES)))
        elif kind == "value" and array.size and array.dtype.kind in "biufc":
            array.flat[draw(st.integers(0, array.size - 1))] = _fitting(draw(st.sampled_from(_VALUES)), array.dtype)
        elif kind == "fill" and array.dtype.kind in "biufc":
            array[...] = _fitting(draw(st.sampled_from(_VALUES)), array.dtype)
        elif kind == "shape":
            shapes = [array[None], array[..., None], array.T, array.reshape(-1), array.reshape(*[1] * 6, -1)]
            changed[name] = draw(st.sampled_from([*shapes, np.zeros((), array.dtype), array[None].repeat(2, axis=0)]))
        elif kind == "size" and array.ndim:
            axis = draw(st.integers(0, array.ndim - 1))
            length = draw(st.sampled_from([0, 1, array.shape[axis] - 1, array.shape[axis] * 2]))
            changed[name] = np.take(array, np.arange(max(0, length)) % max(1, array.shape[axis]), axis=axis, mode="clip"
                                    ) if array.shape[axis] else array  # fmt: skip
    return changed


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        return np.zeros(array.shape, dtype)
    return np.nan_to_num(np.asarray(array, np.float64)).astype("<i8").astype(dtype) if dtype[1] in "Mm" else np.asarray(
        array.real).astype(dtype)  # fmt: skip


def _fitting(value: float, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return int(min(max(0 if math.isnan(value) else value, float(limits.min)), float(limits.max) * (1 - 1e-9)))
    with np.errstate(all="ignore"):
        return np.float64(value).astype(dtype)


def npy(array: np.ndarray) -> bytes:
    """Return the bytes of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version=(1, 0) if array.dtype.kind != "V" else None)
    return file.getvalue()


def with_header(header: str, data: bytes, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """Return an .npy file whose header is this text, and claims this length."""
    text = header.encode("utf-8", "surrogatepass") + b"\n"
    size = len(text) if length is None else length
    width = 2 if version == (1, 0) else 4
    return b"\x93NUMPY" + bytes(version) + (size % 256**width).to_bytes(width, "little") + text + data


_SHAPES = [
    "(1000000000000,)", "(2**40,)", "(4294967296, 4294967296)", "(-1,)", "(-1, -1)", "(0, 4611686018427387904)",
    "(1.0,)", "(True,)", "3", "[2]", "None", "('a',)", "(1000000000000000000000000,)", "()", "(1,) * 70", "(0,)",
    "(" + "1," * 70 + ")", "(2, 3", "(1e3,)", "(9223372036854775807,)",
    "(0, 9223372036854775807, 9223372036854775807)", "{1}", "(3000000000,)", "(" + "0," * 33 + ")", "(10L,)",
    "(((((1)))),)", "(0, 1000000000)",
]  # fmt: skip
_DESCRIPTIONS = [
    "'|O'", "'O'", "'<f8'", "'|u1'", "'<U0'", "'|V0'", "'|S0'", "'|V1000000000'", "'<U500000000'", "[('a', '<f8')]",
    "[('a', '|O')]", "('<f8', (1000000,))", "'f9'", "5", "None", "[]", "'<M8[s]'", "'<i4,<i4'", "('|O', (2,))", "''",
    "[('a', '<f8'), ('a', '<f8')]", "{'names': ['a'], 'formats': ['O']}", "'\\ud800'", "b'f8'", "'>f8'", "'<c16'",
    "'|b1'",
]  # fmt: skip
_WHOLE = [
    "", "{", "{}", "[]", "None", "{'descr': '<f8'}", "(" * 3000, "[" * 9000, "{'descr':'<f8'\n'", "'''", "\0",
    "1_" * 50, "{'descr': '<f8', 'fortran_order': 5, 'shape': (1,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'a': 1}", "__import__('os').system('x')",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (10L,)}", "-" * 5000 + "1", " " * 60_000, "é" * 4000, "{**{}}",
    "\\", "\t\t1\n  2", "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}#" + "x" * 9000,
]  # fmt: skip


@_content
def npy_files(draw: st.DrawFn, valid: np.ndarray) -> bytes:
    """Give the bytes of an .npy file with a hostile header, other content or damage."""
    plain = npy(valid)
    data = np.ascontiguousarray(valid).tobytes()
    kind = draw(
        st.sampled_from(["shape", "shape", "descr", "descr", "header", "version", "array", "array", "damage", "more"])
    )
    if kind == "damage":
        return draw(mutated(plain))
    if kind == "more":
        return plain + b"\0" * draw(st.integers(1, 100))
    if kind == "array":
        return npy(next(iter(draw(arrays({"a": valid})).values()), np.zeros(3)))
    descr, shape = repr(valid.dtype.str), repr(valid.shape)
    if kind == "shape":
        shape = draw(st.sampled_from(_SHAPES))
    if kind == "descr":
        descr = draw(st.sampled_from(_DESCRIPTIONS))
        shape = draw(st.sampled_from([shape, *_SHAPES]))
    order = draw(st.sampled_from(["False", "False", "True", "0", "None"]))
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if kind == "header":
        header = draw(st.sampled_from(_WHOLE))
    version = draw(st.sampled_from([(1, 0)] * 4 + [(2, 0), (3, 0), (0, 0), (9, 9)]))
    length = (
        draw(st.sampled_from([None, None, None, 0, 10, 2**16 - 1, 2**31, 2**32 - 1])) if kind == "version" else None
    )
    data = data * draw(st.sampled_from([0, 1, 1, 1, 2]))
    return with_header(header, data, version, length)


@lru_cache
def _zeros() -> bytes:
    """Return the end of a raw deflated stream: BOMB zeros, in a thousandth of their size."""
    block = _squeezed(bytes(1 << 24))  # flushed whole, so that it can follow itself
    return block * (BOMB >> 24) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def _squeezed(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)


def stored(members: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of members, whose names may come twice."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def with_bomb(members: Sequence[tuple[str, bytes]], name: str, array: np.ndarray, *, honest: bool) -> bytes:
    """Return a zip with one more member, of BOMB zeros after an array header; its stated size is right or wrong."""
    dtype = array.dtype if array.dtype.kind in "biuf" else np.dtype("|u1")
    row = max(1, int(np.prod(array.shape[1:], dtype=np.int64)))
    shape = (BOMB // dtype.itemsize // row, *array.shape[1:])
    header = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape if honest else array.shape}, }}"
    start = with_header(header, b"")
    squeezed = _squeezed(start) + _zeros()
    size = len(start) + (BOMB if honest else array.nbytes)
    content = bytearray(stored([*members, (f"{name}.npy", squeezed)]))
    local, central = content.rfind(b"PK\x03\x04"), content.rfind(b"PK\x01\x02")
    content[local + 8 : local + 10] = content[central + 10 : central + 12] = (8).to_bytes(2, "little")
    if not honest:  # the stated size is consistent, and more data follows
        checksum = zlib.crc32(start + bytes(array.nbytes)).to_bytes(4, "little")
        content[local + 14 : local + 18] = content[central + 16 : central + 20] = checksum
    content[local + 22 : local + 26] = content[central + 24 : central + 28] = size.to_bytes(4, "little")
    return bytes(content)


@_content
def archives(draw: st.DrawFn, valid: Mapping[str, np.ndarray]) -> bytes:
    """Give the bytes of an .npz file with hostile members, names, sizes or damage."""
    kind = draw(st.sampled_from(["arrays"] * 4 + ["member"] * 4 + ["names", "damage", "damage", "directory", "bomb"]))
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED]))
    worse = draw(arrays(valid)) if kind == "arrays" else dict(valid)
    members = [(f"{name}.npy", npy(array)) for name, array in worse.items()]
    if kind == "member":
        for _ in range(draw(st.integers(1, 2))):
            place = draw(st.integers(0, len(members) - 1))
            name, _ = members[place]
            members[place] = (name, draw(npy_files(valid[name.removesuffix(".npy")])))
        method = draw(st.sampled_from([method, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    if kind == "names":
        for _ in range(draw(st.integers(1, 3))):
            name, content = draw(st.sampled_from(members))
            other = st.sampled_from(
                ["../file", "/etc/passwd", "../" + name, "/" + name, name + "/", "", "a\0b", name, "é"]
            )
            members.insert(draw(st.integers(0, len(members))), (draw(other), content))
    if kind == "bomb":
        name = draw(st.sampled_from(sorted(valid)))
        rest = [(other, content) for other, content in members if other != f"{name}.npy"]
        return with_bomb(rest, name, valid[name], honest=draw(st.booleans()))
    content = stored(members, method)
    if kind == "damage":
        return draw(mutated(content))
    if kind == "directory":  # the sizes, methods, flags and offsets that the zip's own headers tell
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 3))):
            mark = draw(st.sampled_from([b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"]))
            starts = [i for i in range(len(changed)) if changed.startswith(mark, i)]
            if starts:
                place = draw(st.sampled_from(starts)) + draw(st.integers(4, 45))
                value = draw(_INTERESTING)
                changed[place : place + len(value)] = value
        return bytes(changed)
    return content


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints
# ---------------------------------------------------------------------------------------------------------------------


def signed(header: str, data: bytes) -> bytes:
    """Return a checkpoint of this header, the first checksum of 64 zeros in which is made right.

    Whoever can write a file can write its checksum: the reader is not to trust what a right one follows.
    """
    raw = header.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(len(raw).to_bytes(8, "little") + raw + data).hexdigest()
    raw = raw.replace(b"0" * 64, digest.encode(), 1)
    return len(raw).to_bytes(8, "little") + raw + data


def taken_apart(checkpoint: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return a checkpoint's header, the description in it, and the bytes of its arrays."""
    length = int.from_bytes(checkpoint[:8], "little")
    header = json.loads(checkpoint[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["meta"]), checkpoint[8 + length :]


_SAFETENSORS = {
    "b1": "BOOL", "u1": "U8", "i2": "I16", "i4": "I32", "i8": "I64", "u8": "U64", "f2": "F16", "f4": "F32", "f8": "F64",
}  # fmt: skip


@_content
def checkpoints(draw: st.DrawFn, valid: bytes) -> bytes:
    """Give the bytes of a checkpoint with another description, header or arrays, mostly with the right checksum."""
    kind = draw(st.sampled_from(["meta"] * 5 + ["arrays"] * 5 + ["header"] * 3 + ["own", "damage"]))
    if kind == "damage":
        return draw(mutated(valid))
    header, meta, data = taken_apart(valid)
    own = header["__metadata__"] = {**header["__metadata__"], "sha256": "0" * 64}
    if kind == "meta":
        own["meta"] = dumped(draw(values(meta)))
    elif kind == "own":
        header["__metadata__"] = draw(values(own, most=2))
    elif kind == "header":
        tensors = draw(values({k: v for k, v in header.items() if k != "__metadata__"}))
        header = {"__metadata__": own, **tensors} if isinstance(tensors, dict) else tensors
    elif kind == "arrays":
        tensors, data = packed(draw(arrays(unpacked(header, data))))
        header = {"__metadata__": own, **tensors}
    return signed(dumped(header), data)


def unpacked(header: Mapping[str, Any], data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file's header and bytes."""
    types = {entry: dtype for dtype, entry in _SAFETENSORS.items()}
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], types[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def packed(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], bytes]:
    """Return a safetensors file's header entries and bytes for arrays; what it has no type for becomes float32."""
    header, data = {}, b""
    for name, array in tensors.items():
        key = array.dtype.str[1:]
        each = array.astype(f"<{key}") if key in _SAFETENSORS else np.zeros(array.shape, "<f4")
        each = np.ascontiguousarray(each).reshape(array.shape)
        kind = _SAFETENSORS[each.dtype.str[1:]]
        stop = len(data) + each.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), stop]}
        data += each.tobytes()
    return header, data


# ---------------------------------------------------------------------------------------------------------------------
# Tables with commas
# ---------------------------------------------------------------------------------------------------------------------

_CELLS = [
    *_HOSTILE_TEXT,
    '"',
    '""',
    ",",
    "\r",
    "a,b",
    "1" * 400,
    "x" * 200_000,
    "=1+1",
    "inf",
    "1_0",
    " ",
    "\x1a",
    "\ufeff",
    "#",
]


@_content
def tables(draw: st.DrawFn, valid: Sequence[Sequence[str]], delimiter: str = ",") -> bytes:
    """Give the bytes of a CSV file with hostile cells, missing or doubled rows and columns, or damage."""
    rows = [list(row) for row in valid]
    for _ in range(draw(st.integers(1, 3))):
        if not rows:
            break
        row = draw(st.integers(0, len(rows) - 1))
        kind = draw(st.sampled_from(["cell"] * 4 + ["row", "row again", "column", "columns", "short", "long"]))
        column = draw(st.integers(0, max(0, len(rows[row]) - 1)))
        if kind == "cell" and rows[row]:
            rows[row][column] = draw(st.one_of(st.sampled_from(_CELLS), st.text(max_size=4)))
        elif kind == "row":
            del rows[row]
        elif kind == "row again":
            rows.insert(row, list(rows[row]))
        elif kind == "column":
            rows = [[cell for at, cell in enumerate(each) if at != column] for each in rows]
        elif kind == "columns":
            rows = [[*each, each[column] if column < len(each) else ""] for each in rows]
        elif kind == "short":
            rows[row] = rows[row][:-1]
        elif kind == "long":
            rows[row] = [*rows[row], "x"]
    text = "\n".join(delimiter.join(row) for row in rows) + draw(st.sampled_from(["\n", "", "\n\n", "\r\n", '"']))
    content = text.encode(draw(st.sampled_from(["utf-8"] * 4 + ["utf-16", "utf-8-sig"])), "surrogatepass")
    return draw(mutated(content)) if draw(st.integers(0, 3)) == 0 else content
