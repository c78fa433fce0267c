"""Image files on disk: decoding one, and decoding many into one array, in parallel threads where it pays."""

from __future__ import annotations

import functools
import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer

from sextet_common import files, progress
from sextet_common.errors import STRUCTURE, InputError, reading, require
from sextet_common.pixels import release

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
OnBadImage = Literal["refuse", "skip"]
# The formats of these suffixes; some of Pillow's other formats start programs.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# What Pillow's decoders raise for damaged files, besides the exceptions that `reading` knows; they check little.
_PILLOW = (SyntaxError, RuntimeError, ArithmeticError, *STRUCTURE)
_BLOCK = 4 << 20  # bytes of pixels that are decoded at once
_PARALLEL_FROM = 2000  # files
_IN_MEMORY = functools.partial(np.empty, dtype=np.uint8)
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262  # tags


def decode(
    content: bytes, name: str, size: int | None = None, channels: int | None = None
) -> Integer[np.ndarray, "height width channels"]:
    """Decode an image file as uint8, rotated according to its EXIF data; ``name`` is for error messages.

    ``content`` is PNG, JPEG, BMP, WebP, GIF, TIFF or PPM. The result is RGB, or gray (ITU-R 601) with ``channels=1``.
    With ``size`` the image is scaled and cropped to a square of this many pixels a side. 16-bit gray is scaled by
    1/257, floats in [0, 1] by 255; an alpha channel is dropped. Refused are other integer and float images, animations
    and files of several pages, incomplete files, and those that claim far more pixels than their bytes can hold.
    """
    image_module = require("PIL.Image", package="sextet-common", extra="images")
    operations = require("PIL.ImageOps", package="sextet-common", extra="images")
    with reading(name, "a whole image file", *_PILLOW):
        try:
            file = image_module.open(io.BytesIO(content), formats=_FORMATS)
        except image_module.UnidentifiedImageError:  # its message names a BytesIO
            raise InputError(f"{name} is not an image file that can be read", ", ".join(_FORMATS)) from None
        files.check_growth(name, 3 * file.width * file.height, len(content))
        if getattr(file, "is_animated", False) and file.format != "MPO":  # MPO: a photograph and its previews
            raise InputError(f"{name} has several frames or pages", "an image file with one")
        image = operations.exif_transpose(file)  # loads the pixels
    with reading(name, "an image that can be converted to RGB"):
        if image.mode.startswith(("I", "F")):
            image = image_module.fromarray(_eight_bits(image, file, name))
        elif image.mode == "P":  # Pillow warns about RGB at once where a palette has transparent colours
            image = image.convert("RGBA")
        image = image.convert("RGB").convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(operations.fit(image, (size, size)) if size else image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _eight_bits(image: Any, file: Any, name: str) -> np.ndarray:
    """Scale an image of mode I, I;16 or F to 0..255; ``file`` is what Pillow opened."""
    values, tags = np.asarray(image, np.float64), getattr(file, "tag_v2", {})  # tags of a TIFF
    top = 1.0 if image.mode == "F" else 2.0 ** tags.get(_TIFF_BITS, (16,))[0] - 1
    low, high = values.min(), values.max()
    # TIFFs of mode I have signed or 32-bit integers, of unknown range; PNG and PPM of 16 bits have this mode, too.
    if (tags and image.mode == "I") or not (low >= 0 and high <= top):
        kind = "float" if image.mode == "F" else "signed or 32-bit integer"
        accepted = "8- or 16-bit values or floats in [0, 1]; rescale the image to one of these"
        raise InputError(f"{name} holds {kind} values from {low:g} to {high:g}", accepted)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero
        values = top - values
    return np.rint(values / (top / 255)).astype(np.uint8)


@dataclass(frozen=True)
class Pixels:
    """Decoded images: the array, the positions of its rows in the list of files, and notes about the files."""

    images: Integer[np.ndarray, "kept channels height width"]
    rows: Integer[np.ndarray, " kept"]
    notes: tuple[str, ...]


def read_images(
    paths: Sequence[str],
    *,
    size: int | None = None,
    channels: int | None = None,
    on_bad_image: OnBadImage = "refuse",
    workers: int | None = None,
    create: Callable[[tuple[int, int, int, int]], np.ndarray] = _IN_MEMORY,
) -> Pixels:
    """Decode images of one size in the order of their paths; the number of workers changes no pixel.

    ``on_bad_image`` says what to do with a file that :func:`decode` refuses. ``workers`` is the number of threads, by
    default 1 for fewer than 2000 files, else one per core, at most 16. ``create`` returns the array to fill, given the
    shape for all paths; a memory-mapped one is written in blocks that memory holds one at a time.
    """
    decoding = {"size": size, "channels": channels}
    for first in paths:
        try:
            shape = _read(first, **decoding).shape
            break
        except InputError:
            if on_bad_image == "refuse":
                raise
    else:
        raise InputError(f"none of {len(paths)} image files can be read", "at least one whole image file")
    options = {**decoding, "skip": on_bad_image == "skip", "first": first, "shape": shape}
    step = min(max(_BLOCK // math.prod(shape), 1), 256)
    blocks = [list(paths[start : start + step]) for start in range(0, len(paths), step)]
    images = create((len(paths), *shape))
    gray, done, rows = shape[0] == 3 and channels is None, 0, list[int]()
    with progress.bar("decode images", len(paths)) as bar:
        for block, (pixels, kept) in zip(blocks, _decoded(blocks, options, workers), strict=True):
            images[len(rows) : len(rows) + len(kept)] = pixels
            release(images)
            rows += [done + at for at in kept]
            gray = gray and bool((pixels == pixels[:, :1]).all())
            done += len(block)
            bar.advance(len(block))
    notes = []
    if skipped := [paths[at] for at in sorted(set(range(len(paths))).difference(rows))]:
        notes.append(f"image files that cannot be read are skipped ({some(skipped)})")
    if gray:
        notes.append(f"all {len(rows)} images are gray: channels=1 (--channels 1) keeps one channel instead of three")
    return Pixels(images[: len(rows)], np.array(rows, dtype=np.int64), tuple(notes))


def some(paths: Sequence[str], top: str = "") -> str:
    """Return the number of paths and the first three, relative to ``top``."""
    names = ", ".join(repr(path.removeprefix(top)) for path in paths[:3])
    return f"{len(paths)}: {names}" + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _read(path: str, size: int | None, channels: int | None) -> Integer[np.ndarray, "channels height width"]:
    with reading(path, "a whole image file"):
        content = Path(path).read_bytes()
    return decode(content, path, size, channels).transpose(2, 0, 1)


_Block = tuple[np.ndarray, list[int]]  # the decoded images of a block of paths, and their positions in it


def _decode_block(paths: Sequence[str], first: str, shape: Sequence[int], skip: bool, **decoding: int | None) -> _Block:
    """Decode files of one shape, that of the ``first`` file of the set."""
    images, kept = np.empty((len(paths), *shape), np.uint8), list[int]()
    for at, path in enumerate(paths):
        try:
            image = _read(path, **decoding)
        except InputError:
            if not skip:
                raise
            continue
        if image.shape != tuple(shape):
            given = f"{path} is {image.shape[2]}x{image.shape[1]}, {first} is {shape[2]}x{shape[1]}"
            raise InputError(given, "images of one size, or --size N")
        images[len(kept)] = image
        kept.append(at)
    return images[: len(kept)], kept


def _decoded(blocks: Sequence[Sequence[str]], options: dict[str, Any], workers: int | None) -> Iterator[_Block]:
    """Yield the decoded blocks in order, a few of them ahead of the reader. Pillow decodes without holding the GIL."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, 16) if sum(map(len, blocks)) >= _PARALLEL_FROM else 1
    if workers <= 1:
        yield from (_decode_block(block, **options) for block in blocks)
        return
    with ThreadPoolExecutor(workers) as threads:
        waiting = deque[Future[_Block]]()
        try:
            for block in blocks:
                waiting.append(threads.submit(_decode_block, block, **options))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
