"""Pixels of image files: NumPy-written images of every kind, bad files, and threads that decode."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sextet_common import image_files
from sextet_common.errors import InputError
from sextet_common.image_files import decode, read_images


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png16(values: np.ndarray) -> bytes:
    """Write a 16-bit PNG of (h, w, c) values, gray or RGB, by the PNG specification."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(values: np.ndarray, *, bits: int = 0, kind: int = 1, photometric: int = 1) -> bytes:
    """Write an uncompressed little-endian TIFF of (h, w) values by the TIFF 6.0 specification."""
    strip = values.tobytes()
    height, width = values.shape
    entries = [
        *((256, width), (257, height), (258, bits or 8 * values.itemsize), (259, 1), (262, photometric), (273, 8)),
        *((277, 1), (278, height), (279, len(strip)), (339, kind)),
    ]
    table = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in entries)
    strip += b"\0" * (len(strip) % 2)
    head = b"II*\0" + struct.pack("<I", 8 + len(strip))
    return head + strip + struct.pack("<H", len(entries)) + table + bytes(4)


RAMP = np.linspace(0, 65535, 24 * 16).round().astype(np.uint16).reshape(24, 16)
TO_8_BITS = np.array([round(int(value) / 257) for value in RAMP.ravel()], np.uint8).reshape(RAMP.shape)


@pytest.mark.parametrize(
    "content",
    [
        png16(RAMP[:, :, None]),
        encoded(Image.fromarray(RAMP), "PNG"),
        encoded(Image.fromarray(RAMP), "TIFF"),
        encoded(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
        tiff(RAMP),
        tiff(65535 - RAMP, photometric=0),
        b"P5 16 24 65535\n" + RAMP.astype(">u2").tobytes(),
        tiff((RAMP / 65535).astype("<f4"), kind=3),
        encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
    ],
)
def test_deep_gray_images_keep_their_brightness(content: bytes) -> None:
    pixels = decode(content, "deep")
    assert pixels.dtype == np.uint8 and pixels.shape == (24, 16, 3)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[:, :, channel], TO_8_BITS)
    np.testing.assert_array_equal(decode(content, "deep", channels=1)[:, :, 0], TO_8_BITS)
    assert decode(content, "deep", size=5).shape == (5, 5, 3)


def test_twelve_bit_values_reach_white() -> None:
    pairs = np.array([0, 4095, 2048, 1024]).reshape(-1, 2)
    packed = np.array([[a >> 4, (a & 15) << 4 | b >> 8, b & 255] for a, b in pairs], np.uint8)
    content = tiff(packed.reshape(1, -1), bits=12).replace(
        struct.pack("<HHII", 256, 3, 1, 6), struct.pack("<HHII", 256, 3, 1, 4)
    )
    np.testing.assert_array_equal(decode(content, "x")[0, :, 0], np.rint(pairs.ravel() * 255 / 4095))
    coarse = b"P5 3 1 1023\n" + np.array([0, 511, 1023], ">u2").tobytes()
    np.testing.assert_array_equal(decode(coarse, "x")[0, :, 0], np.rint(np.array([0, 511, 1023]) * 255 / 1023))


def test_deep_colour_is_within_one_level() -> None:
    values = np.stack([RAMP, RAMP[::-1], RAMP.T.reshape(24, 16)], axis=2)
    for content in (png16(values), b"P6 16 24 65535\n" + values.astype(">u2").tobytes()):
        assert np.abs(decode(content, "x").astype(int) - values / 257).max() <= 1


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.array([[0, 255]], "<f4"), {"kind": 3}, r"x\.tif holds float values from 0 to 255; expected: 8- or 16-bit"),
        (np.array([[-0.5, 0.5]], "<f4"), {"kind": 3}, "float values from -0.5 to 0.5"),
        (np.array([[np.nan, 0.5]], "<f4"), {"kind": 3}, "float values from nan to nan"),
        (np.array([[np.inf, 0.5]], "<f4"), {"kind": 3}, "float values from 0.5 to inf"),
        (np.array([[0, 255]], "<i4"), {"kind": 2}, "signed or 32-bit integer values from 0 to 255"),
        (np.array([[0, 70000]], "<u4"), {}, "signed or 32-bit integer values from 0 to 70000"),
        (np.array([[-3, 70]], "<i2"), {"kind": 2}, "signed or 32-bit integer values from -3 to 70"),
        (np.array([[0, 1]], "<f8"), {"kind": 3}, r"x\.tif is not an image file that can be read; expected: PNG, JPEG"),
        (np.array([[0, 1]], "<f2"), {"kind": 3}, "is not an image file that can be read"),
    ],
)
def test_values_of_unknown_range_are_refused_with_the_range_and_the_remedy(
    values: np.ndarray, options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        decode(tiff(values, **options), "x.tif")
    assert "BytesIO" not in str(error.value)


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_palettes_alpha_and_single_bits_are_read_as_their_colours() -> None:
    image = Image.fromarray(COLOURS)
    palette = image.quantize(256)
    expected = np.asarray(palette.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(palette)]
    np.testing.assert_array_equal(decode(encoded(palette, "PNG"), "p"), expected)
    np.testing.assert_array_equal(decode(encoded(palette, "GIF"), "p"), expected)
    seen_through = bytes(range(0, 256, 2)) + bytes(128)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG", transparency=seen_through), "p"), expected)
    alpha = np.dstack([COLOURS, np.full((6, 5), 7, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(alpha), "PNG"), "a"), COLOURS)
    gray_alpha = Image.merge("LA", [Image.fromarray(alpha[:, :, channel]) for channel in (0, 3)])
    np.testing.assert_array_equal(decode(encoded(gray_alpha, "PNG"), "a"), COLOURS[:, :, [0, 0, 0]])
    bits = COLOURS[:, :, 0] > 127
    for form in ("PNG", "TIFF", "PPM", "BMP"):
        np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits), form), "1")[:, :, 1], 255 * bits)
    for white in (0, 1):  # TIFF's photometric interpretation of 8 bits
        np.testing.assert_array_equal(
            decode(tiff(COLOURS[:, :, 0], photometric=white), "8")[:, :, 0],
            COLOURS[:, :, 0] if white else 255 - COLOURS[:, :, 0],
        )


def test_cmyk_is_converted() -> None:
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[:, :2, 0] = 255  # cyan, and white paper
    pixels = decode(encoded(Image.fromarray(inks, mode="CMYK"), "TIFF"), "c")
    np.testing.assert_array_equal(pixels[0], [[0, 255, 255]] * 2 + [[255, 255, 255]] * 2)


def test_gray_is_itu_r_601() -> None:
    luma = COLOURS @ np.array([0.299, 0.587, 0.114])
    gray = decode(encoded(Image.fromarray(COLOURS), "PNG"), "g", channels=1)
    assert gray.shape == (6, 5, 1) and np.abs(gray[:, :, 0] - luma).max() <= 0.51
    stored = encoded(Image.fromarray(COLOURS[:, :, 0]), "PNG")
    np.testing.assert_array_equal(decode(stored, "g", channels=1)[:, :, 0], COLOURS[:, :, 0])
    np.testing.assert_array_equal(decode(stored, "g"), COLOURS[:, :, [0, 0, 0]])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("deep", [False, True])
def test_exif_orientation_is_applied(form: str, deep: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    values = COLOURS[:, :, 0].astype(np.uint16) * 257 if deep else COLOURS
    pixels = decode(encoded(Image.fromarray(values), form, exif=exif), "e")
    expected = np.rot90(COLOURS[:, :, [0, 0, 0]] if deep else COLOURS, k=-1)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_files_of_several_pages_are_refused(form: str) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    with pytest.raises(InputError, match=r"two\.gif has several frames or pages; expected: an image file with one"):
        decode(encoded(frames[0], form, save_all=True, append_images=frames[1:]), "two.gif")
    assert decode(encoded(frames[0], form), "one.gif").shape == (6, 5, 3)


def test_a_photograph_with_embedded_previews_is_read() -> None:
    big, small = (Image.new("RGB", (side, side), "teal") for side in (16, 8))
    assert decode(encoded(big, "MPO", save_all=True, append_images=[small]), "m.jpg").shape == (16, 16, 3)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"nothing", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_errors_name_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png is not an image file that can be read") as error:
        read_images([str(path)])
    assert "BytesIO" not in str(error.value)
    with pytest.raises(InputError, match=r"b\.png does not exist"):
        read_images([str(tmp_path / "b.png")])
    with pytest.raises(InputError, match="is a folder"):
        read_images([str(tmp_path)])


def write(folder: Path, count: int, size: tuple[int, int] = (5, 6)) -> tuple[list[str], np.ndarray]:
    """Write different PNG files; return the paths and the pixels as (n, c, h, w)."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, *size[::-1], 3), dtype=np.uint8)
    paths = [str(folder / f"{number:04}.png") for number in range(count)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path, compress_level=0)
    return paths, pixels.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("workers", [None, 1, 2, 3])
def test_the_number_of_workers_changes_nothing(
    tmp_path: Path, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "_BLOCK", 5 * 6 * 3 * 7)  # 7 images
    paths, expected = write(tmp_path, 40)
    for bad in (0, 1, 13, 39):
        Path(paths[bad]).write_bytes(b"\x89PNG\r\n\x1a\n torn")
    found = read_images(paths, workers=workers, on_bad_image="skip")
    kept = [row for row in range(40) if row not in (0, 1, 13, 39)]
    assert found.rows.tolist() == kept
    np.testing.assert_array_equal(found.images, expected[kept])
    (note,) = found.notes
    assert "skipped (4: " in note and "0013.png' and 1 more)" in note
    with pytest.raises(InputError, match=r"0000\.png"):
        read_images(paths, workers=workers)
    for bad in range(20):
        Path(paths[bad]).write_bytes(b"")
    (note,) = read_images(paths, workers=workers, on_bad_image="skip").notes
    assert "(21: " in note and note.endswith("0002.png' and 18 more)") and note.count(".png") == 3
    with pytest.raises(InputError, match=r"none of 20 image files can be read"):
        read_images(paths[:20], workers=workers, on_bad_image="skip")


def test_images_of_another_size_are_refused_even_where_bad_ones_are_skipped(tmp_path: Path) -> None:
    paths, _ = write(tmp_path, 3)
    Image.new("RGB", (9, 2)).save(paths[2])
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"0002\.png is 9x2, .*0000\.png is 5x6; expected: images of one size, or"):
            read_images(paths, on_bad_image="skip", workers=workers)
    assert read_images(paths, size=2).images.shape == (3, 3, 2, 2)


def test_images_go_to_a_memory_map(tmp_path: Path) -> None:
    paths, expected = write(tmp_path, 9)
    target = tmp_path / "images.npy"
    found = read_images(paths, create=lambda shape: np.lib.format.open_memmap(target, "w+", np.uint8, shape))
    assert isinstance(found.images, np.memmap)
    np.testing.assert_array_equal(found.images, expected)
    found.images.flush()
    np.testing.assert_array_equal(np.load(target), expected)


def test_gray_photographs_stored_as_rgb_are_offered_one_channel(tmp_path: Path) -> None:
    for number, value in enumerate((3, 90)):
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    found = read_images(paths)
    assert found.images.shape == (2, 3, 4, 4) and "all 2 images are gray: channels=1" in found.notes[0]
    one = read_images(paths, channels=1)
    assert one.images.shape == (2, 1, 4, 4) and one.notes == () and one.images[1, 0, 0, 0] == 90
    assert read_images(paths, channels=3).notes == ()
    Image.new("RGB", (4, 4), (3, 3, 4)).save(paths[1])
    assert read_images(paths).notes == ()


def test_reading_ahead_is_bounded_and_ends_with_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = write(tmp_path, 60)
    decoded: list[str] = []
    decode_block = image_files._decode_block

    def noted(block: list[str], **options: Any) -> Any:
        decoded.extend(block)
        return decode_block(block, **options)

    monkeypatch.setattr(image_files, "_decode_block", noted)
    options = {"size": None, "channels": None, "skip": False, "first": paths[0], "shape": (3, 6, 5)}
    before, blocks = threading.active_count(), image_files._decoded([[path] for path in paths], options, 2)
    assert next(blocks)[1] == [0] and len(decoded) <= 5
    blocks.close()
    assert len(decoded) <= 5 and threading.active_count() == before


def test_no_warning_reaches_the_reader(tmp_path: Path) -> None:
    paths, _ = write(tmp_path, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_images(paths, workers=2).rows) == 3
