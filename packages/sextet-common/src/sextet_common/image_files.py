"""Image files on disk: decoding one, and decoding many into one array, in parallel processes where it pays."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from jaxtyping import Integer

from sextet_common import files, progress
from sextet_common.errors import STRUCTURE, InputError, reading, require
from sextet_common.pixels import release

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
OnBadImage = Literal["refuse", "skip"]
# The formats of these suffixes; some of Pillow's other formats start programs.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# What Pillow's decoders raise for damaged files, besides the exceptions that `reading` knows; they check little.
_PILLOW = (SyntaxError, RuntimeError, ArithmeticError, *STRUCTURE)
_BLOCK = 4 << 20  # bytes of pixels that are decoded at once
_PARALLEL_FROM = 2000  # files; starting the processes takes longer than decoding fewer
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262  # tags


def decode(
    content: bytes, name: str, size: int | None = None, channels: int | None = None
) -> Integer[np.ndarray, "height width channels"]:
    """Decode an image file as uint8, rotated according to its EXIF data; ``name`` is for error messages.

    ``content`` is PNG, JPEG, BMP, WebP, GIF, TIFF or PPM. The result is RGB, or gray (ITU-R 601) with ``channels=1``.
    With ``size`` the image is scaled and cropped to a square of this many pixels a side. 16-bit gray is scaled by
    1/257, floats in [0, 1] by 255; an alpha channel is dropped, and the colours under it are kept. Refused are other
    integer and float images, animations and files of several pages, incomplete files, and those that claim far more
    pixels than their bytes can hold.

    Examples
    --------
    >>> white = b"P5 2 1 255 " + bytes([255, 255])
    >>> decode(white, "white.pgm").shape, decode(white, "white.pgm", channels=1).shape
    ((1, 2, 3), (1, 2, 1))
    """
    image_module = require("PIL.Image", package="sextet-common", extra="images")
    with reading(name, "a whole image file", *_PILLOW):
        try:
            image = image_module.open(io.BytesIO(content), formats=_FORMATS)
        except image_module.UnidentifiedImageError:  # its message names a BytesIO
            raise InputError(f"{name} is not an image file that can be read", ", ".join(_FORMATS)) from None
        files.check_growth(name, 3 * image.width * image.height, len(content))
        if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photograph and its previews
            raise InputError(f"{name} has several frames or pages", "an image file with one")
    return from_pil(image, name, size, channels)


def from_pil(
    image: Any, name: str, size: int | None = None, channels: int | None = None
) -> Integer[np.ndarray, "height width channels"]:
    """Convert a Pillow image of any mode as :func:`decode` does."""
    image_module = require("PIL.Image", package="sextet-common", extra="images")
    operations = require("PIL.ImageOps", package="sextet-common", extra="images")
    with reading(name, "a whole image file", *_PILLOW):
        pixels = operations.exif_transpose(image)  # loads the pixels
    with reading(name, "an image that can be converted to RGB"):
        if pixels.mode.startswith(("I", "F")):
            pixels = image_module.fromarray(_eight_bits(pixels, image, name))
        elif isinstance(pixels.info.get("transparency"), bytes):  # a palette's; Pillow warns about RGB at once
            pixels = pixels.convert("RGBA")
        pixels = pixels.convert("RGB")
        pixels = pixels.convert("L") if channels == 1 else pixels
        pixels = np.asarray(operations.fit(pixels, (size, size)) if size else pixels)
        return pixels[:, :, None] if channels == 1 else pixels


def _eight_bits(pixels: Any, image: Any, name: str) -> np.ndarray:
    """Scale the values of a Pillow image of mode I, I;16 or F; ``image`` is the file as opened."""
    values = np.asarray(pixels).astype(np.float64)
    tags = getattr(image, "tag_v2", {})
    if pixels.mode == "F":
        top = 1.0
    elif pixels.mode.startswith("I;16"):
        top = 2.0 ** tags.get(_TIFF_BITS, (16,))[0] - 1
    else:  # Pillow reads PPM and PNG of more than 8 bits as 16-bit values in mode I
        top = 0.0 if image.format == "TIFF" else 65535.0
    low, high = values.min(), values.max()
    if not (top and low >= 0 and high <= top):
        kind = "float" if pixels.mode == "F" else "signed or 32-bit integer"
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


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def read_images(
    paths: Sequence[str],
    *,
    size: int | None = None,
    channels: int | None = None,
    on_bad_image: OnBadImage = "refuse",
    workers: int | None = None,
    create: Callable[[tuple[int, int, int, int]], np.ndarray] = _empty,
) -> Pixels:
    """Decode images of one size in the order of their paths; the number of workers changes no pixel.

    Parameters
    ----------
    on_bad_image
        What to do with a file that :func:`decode` refuses: ``refuse`` the set or ``skip`` the file.
    workers
        Decoding processes; by default 1 for fewer than 2000 files, else one per core, at most 16.
    create
        Returns the uint8 array to fill, in memory or memory-mapped, given the shape for all paths. Memory holds one
        block of a memory-mapped array at a time.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "white.pgm"
    >>> _ = file.write_bytes(b"P5 2 1 255 " + bytes([255, 255]))
    >>> read_images([str(file)] * 3, channels=1).images.shape
    (3, 1, 1, 2)
    """
    skipped: list[str] = []

    def refuse_or_skip(path: str, error: InputError) -> None:
        if on_bad_image == "refuse":
            raise error
        skipped.append(path)

    for first in paths:
        try:
            height, width, depth = _read(first, size, channels).shape
            break
        except InputError as error:
            refuse_or_skip(first, error)
    else:
        raise InputError(f"none of {len(paths)} image files can be read", "at least one whole image file")
    start = len(skipped)
    options = {"size": size, "channels": channels, "first": first, "shape": [height, width, depth]}
    step = min(max(_BLOCK // (height * width * depth), 1), 256)
    blocks = [paths[at : at + step] for at in range(start, len(paths), step)]
    images = create((len(paths), depth, height, width))
    gray, rows = depth == 3, list[int]()
    with progress.bar("decode images", len(paths), done=start) as bar, contextlib.ExitStack() as stack:
        for block, (pixels, errors) in zip(blocks, _decoded(blocks, options, workers, stack), strict=True):
            for at, (given, expected, is_size) in errors.items():
                if is_size:
                    raise InputError(given, expected)
                refuse_or_skip(block[int(at)], InputError(given, expected))
            images[len(rows) : len(rows) + len(pixels)] = pixels
            gray = gray and bool((pixels == pixels[:, :1]).all())
            rows += [start + at for at in range(len(block)) if str(at) not in errors]
            start += len(block)
            release(images)
            bar.advance(len(block))
    notes = _notes(skipped, len(rows) if gray and channels is None else 0)
    return Pixels(images[: len(rows)], np.array(rows, dtype=np.int64), notes)


def _notes(skipped: Sequence[str], gray: int) -> tuple[str, ...]:
    notes = []
    if skipped:
        names = ", ".join(map(repr, skipped[:5])) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        notes.append(f"image files that cannot be read are skipped ({len(skipped)}: {names})")
    if gray:
        notes.append(f"all {gray} images are gray: channels=1 (--channels 1) keeps one channel instead of three")
    return tuple(notes)


def _read(path: str, size: int | None, channels: int | None) -> np.ndarray:
    with reading(path, "a whole image file"):
        content = Path(path).read_bytes()
    return decode(content, path, size, channels)


_Block = tuple[np.ndarray, dict[str, tuple[str, str, bool]]]  # pixels; errors by position, and if about the size


def _decode_block(
    paths: Sequence[str], size: int | None, channels: int | None, first: str, shape: Sequence[int]
) -> _Block:
    """Decode files as (n, channels, height, width); images of another shape than ``first`` count as errors."""
    pixels, errors = [], {}
    for at, path in enumerate(paths):
        try:
            image = _read(path, size, channels)
        except InputError as error:
            errors[str(at)] = (error.given, error.expected, False)
            continue
        if image.shape != tuple(shape):
            given = f"{path} is {image.shape[1]}x{image.shape[0]}, {first} is {shape[1]}x{shape[0]}"
            errors[str(at)] = (given, "images of one size, or --size N", True)
            continue
        pixels.append(image.transpose(2, 0, 1))
    height, width, depth = shape
    return np.array(pixels, np.uint8).reshape(-1, depth, height, width), errors


def _decoded(
    blocks: Sequence[Sequence[str]], options: dict[str, Any], workers: int | None, stack: contextlib.ExitStack
) -> Iterator[_Block]:
    """Yield the decoded blocks in order. Processes that decode them end with the stack."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, 16) if sum(map(len, blocks)) >= _PARALLEL_FROM else 1
    if min(workers, len(blocks)) <= 1 or not sys.executable:
        yield from (_decode_block(block, **options) for block in blocks)
        return
    pool = [_start(stack) for _ in range(min(workers, len(blocks)))]
    height, width, depth = options["shape"]
    # A process has one block at a time, so that neither side waits for the other to empty a pipe.
    for number in range(-len(pool), len(blocks)):
        (requests, answers), following = pool[number % len(pool)], number + len(pool)
        try:
            if number >= 0:
                count, errors = json.loads(answers.readline())
                pixels = np.frombuffer(answers.read(count * height * width * depth), np.uint8)
                pixels = pixels.reshape(count, depth, height, width)
            if following < len(blocks):
                task = json.dumps({"paths": list(blocks[following]), **options})
                requests.write(task.encode() + b"\n")
                requests.flush()
        except (OSError, ValueError):  # a pipe that ended
            where = f"{blocks[max(number, 0)][0]} and the files after it"
            raise InputError(f"a process that decoded {where} ended", "enough free memory, or workers=1") from None
        if number >= 0:
            yield pixels, errors


def _start(stack: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Start a process that runs :func:`_serve`; unlike multiprocessing's, it does not run the program's main module."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from sextet_common import image_files; image_files._serve()"
    pipe = subprocess.PIPE
    process = stack.enter_context(
        subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    )
    requests, answers = cast("tuple[IO[bytes], IO[bytes]]", (process.stdin, process.stdout))
    stack.callback(_end, process, requests)
    return requests, answers


def _end(process: subprocess.Popen[bytes], requests: IO[bytes]) -> None:
    process.kill()
    with contextlib.suppress(OSError):  # a process that has ended takes no more input
        requests.close()


def _serve() -> None:
    """Decode blocks for the parent process until it closes the pipe or ends: JSON lines in, JSON and pixels out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    warnings.simplefilter("ignore")
    for line in sys.stdin.buffer:
        pixels, errors = _decode_block(**json.loads(line))
        sys.stdout.buffer.write(json.dumps([len(pixels), errors]).encode() + b"\n" + pixels.tobytes())
        sys.stdout.buffer.flush()
