"""The Triton kernels that make maps from features; imported only where Triton is installed.

Every kernel sees an image as a matrix whose columns run along the memory: channels x positions in contiguous memory,
positions x channels in channels-last memory. Both attention maps are sums of powers of the matrix's entries, one down
its columns and one along its rows, so one pass gives both for either memory format.

No kernel uses atomics. Each program writes the sum of its part of an image to its own place, and the parts are added
in order: the same numbers in every run. For the same reason the tuner may choose only the prefetch distance of the
kernel that sums, which does not change the order of summation.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False
# Triton's compiler infers the types of these functions; names in capitals are compile-time constants.

from __future__ import annotations

import os

import triton
import triton.language as tl
import triton.testing

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # as Triton reads it when it decorates the functions below

ROW = tl.constexpr(1024)  # entries of a map that a program of four warps holds at once
SAFE = tl.constexpr(2.0**80)  # sums in [1 / SAFE, SAFE] leave room for the factors of their gradients
SMALLEST = tl.constexpr(2.0**-126)  # the smallest normal number
LARGE = tl.constexpr(2.0**126)  # the largest power of two whose inverse is normal


def tuned(configs, key):
    """Autotune over configurations; the interpreter uses the first.

    Equivalent to `triton.autotune`, with the same timing, but Triton 3.2's looks for a GPU at import time.
    """
    if INTERPRETED:
        return triton.heuristics({name: lambda _, value=value: value for name, value in configs[0].kwargs.items()})

    def measured(launch, quantiles):
        return triton.testing.do_bench(launch, quantiles=quantiles)

    return lambda kernel: triton.runtime.Autotuner(
        kernel, kernel.arg_names, configs, key, reset_to_zero=None, restore_value=None, do_bench=measured
    )


@triton.jit
def power(x, POWER: tl.constexpr):
    """Return |x|^POWER, by squarings: 13 is 1101 in binary, so x * x^4 * x^8."""
    square = tl.abs(x)
    result = tl.full(x.shape, 1.0, tl.float32)
    for bit in tl.static_range(6):
        if (POWER >> bit) & 1:
            result = result * square
        if POWER >> (bit + 1):
            square = square * square
    return result


@triton.jit
def _inverse_power_of_two(x):
    """Return 1 / 2^floor(log2(x)) of a positive scalar, exactly, from its exponent's bits."""
    exponent = tl.minimum(tl.maximum(x, SMALLEST), LARGE).to(tl.int32, bitcast=True) >> 23
    return ((254 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def load(f, image, rows, columns, n_rows, n_columns, stride_image, stride_row, stride_column):
    """Load a block of an image's matrix in float32, with zeros beyond its edges."""
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    offsets = rows[:, None] * stride_row + columns[None, :] * stride_column
    return tl.load(f + image * stride_image + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _sum_part(
    f, column_parts, row_parts, image, chunk, tile, scale, n_rows, n_columns, n_chunks, n_tiles,
    stride_image, stride_row, stride_column,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Sum the powers of a part of an image, CHUNK rows x TILE columns; a power of 0 omits its sums."""
    columns = tile * TILE + tl.arange(0, TILE)
    column_sums = tl.zeros([BLOCK, TILE], tl.float32)
    for start in tl.range(0, CHUNK, BLOCK, num_stages=AHEAD):
        rows = chunk * CHUNK + start + tl.arange(0, BLOCK)
        x = load(f, image, rows, columns, n_rows, n_columns, stride_image, stride_row, stride_column) * scale
        if COLUMN_POWER:
            column_sums += power(x, COLUMN_POWER)
        if ROW_POWER:
            row_sums = tl.sum(power(x, ROW_POWER), axis=1)
            tl.store(row_parts + (image * n_tiles + tile) * n_rows + rows, row_sums, mask=rows < n_rows)
    if COLUMN_POWER:
        offsets = (image * n_chunks + chunk) * n_columns + columns
        tl.store(column_parts + offsets, tl.sum(column_sums, axis=0), mask=columns < n_columns)


@triton.jit
def _raw(parts, image, index, size, n_parts):
    """Add the parts of a map's entries, in order."""
    total = tl.zeros(index.shape, tl.float32)
    for part in range(n_parts):
        total += tl.load(parts + (image * n_parts + part) * size + index, mask=index < size, other=0.0)
    return total


@triton.jit
def _largest_sum(parts, image, size, n_parts):
    """Return the largest entry of a map before normalisation."""
    top = tl.zeros([ROW], tl.float32)
    for start in range(0, size, ROW):
        top = tl.maximum(top, _raw(parts, image, start + tl.arange(0, ROW), size, n_parts))
    return tl.max(top, axis=0)


@triton.jit
def _in_range(parts, image, size, n_parts):
    """Return whether a map's sums, and gradients through them, are in range; False for sums of zero."""
    top = _largest_sum(parts, image, size, n_parts)
    return (top >= 1 / SAFE) & (top <= SAFE)


@triton.jit
def _largest_feature(
    f, image, n_rows, n_columns, stride_image, stride_row, stride_column, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    """Return the largest |f| of an image."""
    top = tl.zeros([BLOCK, TILE], tl.float32)
    for row in range(0, n_rows, BLOCK):
        for column in range(0, n_columns, TILE):
            rows, columns = row + tl.arange(0, BLOCK), column + tl.arange(0, TILE)
            x = load(f, image, rows, columns, n_rows, n_columns, stride_image, stride_row, stride_column)
            top = tl.maximum(top, tl.abs(x))
    return tl.max(tl.max(top, axis=1), axis=0)


@triton.jit
def _write_unit(parts, maps, inverse_lengths, image, size, n_parts):
    """Divide a map by its length, and store the inverse length: 0 for a map of zeros."""
    top = _largest_sum(parts, image, size, n_parts)
    scale = _inverse_power_of_two(top)  # so that no square overflows float32
    squares = tl.zeros([ROW], tl.float32)
    for start in range(0, size, ROW):
        scaled = _raw(parts, image, start + tl.arange(0, ROW), size, n_parts) * scale
        squares += scaled * scaled
    dead = top == 0
    inverse = tl.where(dead, 0.0, scale / tl.where(dead, 1.0, tl.sqrt(tl.sum(squares, axis=0))))
    tl.store(inverse_lengths + image, inverse)
    for start in range(0, size, ROW):
        index = start + tl.arange(0, ROW)
        tl.store(maps + image * size + index, _raw(parts, image, index, size, n_parts) * inverse, mask=index < size)


@triton.jit
def finish(
    f, column_parts, row_parts, column_maps, row_maps, column_inverses, row_inverses, scales, image,
    n_rows, n_columns, n_chunks, n_tiles, stride_image, stride_row, stride_column,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute an image's maps from its sums; where those are out of range, first sum the scaled image again.

    The maps do not depend on the scale, and scaling by a power of two is exact. Checking the features before summing
    would read them twice for every image; this reads only the rare ones again.
    """
    if COLUMN_POWER and ROW_POWER:
        in_range = _in_range(column_parts, image, n_columns, n_chunks) & _in_range(row_parts, image, n_rows, n_tiles)
    elif COLUMN_POWER:
        in_range = _in_range(column_parts, image, n_columns, n_chunks)
    else:
        in_range = _in_range(row_parts, image, n_rows, n_tiles)
    if in_range:
        tl.store(scales + image, 1.0)
    else:
        largest = _largest_feature(f, image, n_rows, n_columns, stride_image, stride_row, stride_column, BLOCK, TILE)
        scale = _inverse_power_of_two(largest)
        tl.store(scales + image, scale)
        tl.debug_barrier()  # until all threads have read the old sums
        for chunk in range(n_chunks):
            for tile in range(n_tiles):
                _sum_part(
                    f, column_parts, row_parts, image, chunk, tile, scale, n_rows, n_columns, n_chunks, n_tiles,
                    stride_image, stride_row, stride_column, COLUMN_POWER, ROW_POWER, CHUNK, BLOCK, TILE, 1,
                )  # fmt: skip
        tl.debug_barrier()  # until all threads have written the new ones
    if COLUMN_POWER:
        _write_unit(column_parts, column_maps, column_inverses, image, n_columns, n_chunks)
    if ROW_POWER:
        _write_unit(row_parts, row_maps, row_inverses, image, n_rows, n_tiles)


@tuned(
    [triton.Config({"AHEAD": stages}, num_warps=4, num_stages=stages) for stages in (2, 1, 3, 4)],
    key=["n_rows", "n_columns", "COLUMN_POWER", "ROW_POWER", "WHOLE"],
)
@triton.jit
def sum_parts(
    f, column_parts, row_parts, column_maps, row_maps, column_inverses, row_inverses, scales,
    n_rows, n_columns, n_chunks, n_tiles, stride_image, stride_row, stride_column,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Sum one part of one image; if an image is a single part (WHOLE), compute its maps too."""
    part = tl.program_id(0).to(tl.int64)
    image = part // (n_chunks * n_tiles)
    chunk = (part // n_tiles % n_chunks).to(tl.int32)
    tile = (part % n_tiles).to(tl.int32)
    _sum_part(
        f, column_parts, row_parts, image, chunk, tile, 1.0, n_rows, n_columns, n_chunks, n_tiles,
        stride_image, stride_row, stride_column, COLUMN_POWER, ROW_POWER, CHUNK, BLOCK, TILE, AHEAD,
    )  # fmt: skip
    if WHOLE:
        tl.debug_barrier()  # until all threads have written their sums
        finish(
            f, column_parts, row_parts, column_maps, row_maps, column_inverses, row_inverses, scales, image,
            n_rows, n_columns, n_chunks, n_tiles, stride_image, stride_row, stride_column,
            COLUMN_POWER, ROW_POWER, CHUNK, BLOCK, TILE,
        )  # fmt: skip


@triton.jit
def finish_maps(
    f, column_parts, row_parts, column_maps, row_maps, column_inverses, row_inverses, scales,
    n_rows, n_columns, n_chunks, n_tiles, stride_image, stride_row, stride_column,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute one image's maps from the sums of its parts."""
    finish(
        f, column_parts, row_parts, column_maps, row_maps, column_inverses, row_inverses, scales,
        tl.program_id(0).to(tl.int64),
        n_rows, n_columns, n_chunks, n_tiles, stride_image, stride_row, stride_column,
        COLUMN_POWER, ROW_POWER, CHUNK, BLOCK, TILE,
    )  # fmt: skip
