"""The Triton kernels from maps to class means, distances and gradients; see `kernels` for the layout and the order.

With z an image's map, s its sums, and g the gradient with respect to the mean of n maps, the gradient with respect to s
is (g - z <z, g>) / (n ||s||). The products <z, g> are stored in parts; the rest is computed where features are read.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from attention_matching.matching.kernels import finish, load, power, tuned


@triton.jit
def _block(start, label, columns, n_images, size, IMAGES: tl.constexpr):
    """Return the images, offsets and mask of a block of the maps of a class."""
    images = start + tl.arange(0, IMAGES)
    inside = (images < n_images)[:, None] & (columns < size)[None, :]
    rows = label * n_images + images
    return rows, rows[:, None] * size + columns[None, :], inside


@triton.jit
def _mean(maps, label, columns, n_images, size, IMAGES: tl.constexpr, TILE: tl.constexpr):
    """Average one tile of the maps of a class's consecutive images."""
    total = tl.zeros([IMAGES, TILE], tl.float32)
    for start in range(0, n_images, IMAGES):
        _, offsets, inside = _block(start, label, columns, n_images, size, IMAGES)
        total += tl.load(maps + offsets, mask=inside, other=0.0)
    return tl.sum(total, axis=0) / n_images


@triton.jit
def _store_products(
    maps, products, gradient, label, tile, columns, n_images, size, n_tiles, IMAGES: tl.constexpr
):  # fmt: skip
    """Store each image's product of map and gradient over one tile: 0 for a tile beyond the map."""
    for start in range(0, n_images, IMAGES):
        rows, offsets, inside = _block(start, label, columns, n_images, size, IMAGES)
        z = tl.load(maps + offsets, mask=inside, other=0.0)
        mask = start + tl.arange(0, IMAGES) < n_images
        tl.store(products + rows * n_tiles + tile, tl.sum(z * gradient[None, :], axis=1), mask=mask)


@triton.jit
def _compare(
    maps, real, gradients, products, weight, label, tile, n_images, size, n_tiles,
    IMAGES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return one tile's weighted squared distance of a class, and store what its gradient needs."""
    columns = tile * TILE + tl.arange(0, TILE)
    mask = columns < size
    mean = _mean(maps, label, columns, n_images, size, IMAGES, TILE)
    difference = mean - tl.load(real + label * size + columns, mask=mask, other=0.0)
    gradient = 2 * weight * difference
    tl.store(gradients + label * size + columns, gradient, mask=mask)
    _store_products(maps, products, gradient, label, tile, columns, n_images, size, n_tiles, IMAGES)
    return weight * tl.sum(difference * difference, axis=0)


@triton.jit
def mean_maps(maps, means, n_images, size, IMAGES: tl.constexpr, TILE: tl.constexpr):
    """Average one tile of the maps of one class's consecutive images."""
    label = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mean = _mean(maps, label, columns, n_images, size, IMAGES, TILE)
    tl.store(means + label * size + columns, mean, mask=columns < size)


@triton.jit
def multiply_maps(
    column_maps, row_maps, column_gradients, row_gradients, column_products, row_products,
    n_images, n_rows, n_columns, map_tiles,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr, IMAGES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Store the products of one tile of the maps, of images with one mean, with the mean's gradient."""
    label = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    columns = tile * TILE + tl.arange(0, TILE)
    if COLUMN_POWER:
        g = tl.load(column_gradients + label * n_columns + columns, mask=columns < n_columns, other=0.0)
        _store_products(column_maps, column_products, g, label, tile, columns, n_images, n_columns, map_tiles, IMAGES)
    if ROW_POWER:
        g = tl.load(row_gradients + label * n_rows + columns, mask=columns < n_rows, other=0.0)
        _store_products(row_maps, row_products, g, label, tile, columns, n_images, n_rows, map_tiles, IMAGES)


@triton.jit
def compare_maps(
    column_maps, row_maps, column_real, row_real, column_gradients, row_gradients, column_products, row_products,
    distances, column_weight, row_weight, n_images, n_rows, n_columns, map_tiles,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr, IMAGES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute one tile's part of one class's distance from the real means."""
    label = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    distance = 0.0
    if COLUMN_POWER:
        distance += _compare(
            column_maps, column_real, column_gradients, column_products, column_weight, label, tile,
            n_images, n_columns, map_tiles, IMAGES, TILE,
        )  # fmt: skip
    if ROW_POWER:
        distance += _compare(
            row_maps, row_real, row_gradients, row_products, row_weight, label, tile,
            n_images, n_rows, map_tiles, IMAGES, TILE,
        )  # fmt: skip
    tl.store(distances + label * tl.num_programs(1) + tile, distance)


@triton.jit
def finish_and_compare(
    f, column_parts, row_parts, column_maps, row_maps, column_inverses, row_inverses, scales,
    n_rows, n_columns, n_chunks, n_tiles, stride_image, stride_row, stride_column,
    column_real, row_real, column_gradients, row_gradients, column_products, row_products,
    distances, column_weight, row_weight, map_tiles,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, MAP_TILE: tl.constexpr,
):  # fmt: skip
    """Compute the maps of a class's only image from the sums of its parts, and the class's distance."""
    image = tl.program_id(0).to(tl.int64)
    finish(
        f, column_parts, row_parts, column_maps, row_maps, column_inverses, row_inverses, scales, image,
        n_rows, n_columns, n_chunks, n_tiles, stride_image, stride_row, stride_column,
        COLUMN_POWER, ROW_POWER, CHUNK, BLOCK, TILE,
    )  # fmt: skip
    tl.debug_barrier()  # until all threads have written the maps
    distance = 0.0
    for tile in range(map_tiles):
        if COLUMN_POWER:
            distance += _compare(
                column_maps, column_real, column_gradients, column_products, column_weight, image, tile,
                1, n_columns, map_tiles, 1, MAP_TILE,
            )  # fmt: skip
        if ROW_POWER:
            distance += _compare(
                row_maps, row_real, row_gradients, row_products, row_weight, image, tile,
                1, n_rows, map_tiles, 1, MAP_TILE,
            )  # fmt: skip
    tl.store(distances + image, distance)


@triton.jit
def _slope(x, POWER: tl.constexpr):
    """Return the derivative of |x|^POWER without the factor POWER: 0 at 0."""
    slope = power(x, POWER - 1)
    return tl.where(x < 0, -slope, tl.where(x == 0, 0.0, slope))


@triton.jit
def _sum_gradient(
    maps, gradients, products, image, label, index, size, n_tiles, factor, POWER: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Return the gradient with respect to some of an image's sums, with the factors common to all features."""
    part = tl.arange(0, PARTS)
    radial = tl.sum(tl.load(products + image * n_tiles + part, mask=part < n_tiles, other=0.0), axis=0)
    z = tl.load(maps + image * size + index, mask=index < size, other=0.0)
    g = tl.load(gradients + label * size + index, mask=index < size, other=0.0)
    return (g - z * radial) * (factor * POWER)


@tuned(
    [
        triton.Config({"ENTRIES": entries}, num_warps=warps)
        for entries, warps in ((4096, 4), (1024, 4), (2048, 4), (2048, 8), (4096, 8), (8192, 8))
    ],
    key=["n_rows", "n_columns", "COLUMN_POWER", "ROW_POWER"],
)
@triton.jit
def feature_gradients(
    f, scales, upstream, column_inverses, row_inverses, column_maps, row_maps, column_gradients, row_gradients,
    column_products, row_products, result, n_images, n_rows, n_columns, n_tiles, map_tiles,
    stride_upstream, stride_image, stride_row, stride_column,
    result_stride_image, result_stride_row, result_stride_column,
    COLUMN_POWER: tl.constexpr, ROW_POWER: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
    ENTRIES: tl.constexpr,
):  # fmt: skip
    """Multiply one block's slopes by the gradients of their sums: one read and one write.

    ``upstream`` holds a factor for each run of n_images images.
    """
    ROWS: tl.constexpr = ENTRIES // TILE
    block = tl.program_id(0).to(tl.int64)
    n_blocks = tl.cdiv(n_rows, ROWS)
    image = block // (n_blocks * n_tiles)
    label = image // n_images
    rows = (block // n_tiles % n_blocks).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    columns = (block % n_tiles).to(tl.int32) * TILE + tl.arange(0, TILE)
    x = load(f, image, rows, columns, n_rows, n_columns, stride_image, stride_row, stride_column)
    scale = tl.load(scales + image)
    x = x * scale
    factor = scale * tl.load(upstream + label * stride_upstream) / n_images
    gradient = tl.zeros([ROWS, TILE], tl.float32)
    if COLUMN_POWER:
        down = _sum_gradient(
            column_maps, column_gradients, column_products, image, label, columns, n_columns, map_tiles,
            factor * tl.load(column_inverses + image), COLUMN_POWER, PARTS,
        )  # fmt: skip
        gradient += _slope(x, COLUMN_POWER) * down[None, :]
    if ROW_POWER:
        across = _sum_gradient(
            row_maps, row_gradients, row_products, image, label, rows, n_rows, map_tiles,
            factor * tl.load(row_inverses + image), ROW_POWER, PARTS,
        )  # fmt: skip
        gradient += _slope(x, ROW_POWER) * across[:, None]
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    offsets = rows[:, None] * result_stride_row + columns[None, :] * result_stride_column
    tl.store(result + image * result_stride_image + offsets, gradient.to(result.dtype.element_ty), mask=inside)
