"""Attention maps by the Triton kernels: one read of the features forward, one read and one write backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.matching.reference import Pair

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ENTRIES = 4096  # of an image, that a program of four warps holds in its registers at once
WIDEST = 256  # columns of a part: enough for whole transactions with the memory, few enough that parts are many
BLOCKS = 8  # times ENTRIES that a program adds up before it writes its sums
# Said, since Triton's releases differ in what they do unsaid, and the last digits with it.
_OPTIONS = {"enable_fp_fusion": True}


def obstacle(features: Tensor) -> str | None:
    """Say why the kernels cannot take these features.

    Parameters
    ----------
    features
        The activations.

    Returns
    -------
    str or None
        The reason, or None where they can.
    """
    if features.dtype not in DTYPES:
        return f"the features are {features.dtype}, not float32, bfloat16 or float16"
    try:
        from attention_matching.matching import kernels
    except ImportError as error:  # Triton 3.2 lacks a dependency of its own in some environments
        return f"Triton cannot be imported: {error}"

    if features.device.type != "cuda":
        return None if kernels.INTERPRETED else f"the features are on {features.device.type}, not on a CUDA device"
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(features.device)
        needed = (8, 0) if features.dtype == torch.bfloat16 else (7, 0)
        if capability < needed:
            return f"the GPU has compute capability {capability[0]}.{capability[1]}, not {needed[0]}.{needed[1]}"
    return None


# The kernels are compiled already, and torch.compile need not trace their launches.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's has no types
def maps(features: Tensor, spatial_power: int | None, channel_power: int | None, images_per_mean: int = 1) -> Pair:
    """Compute the normalised maps, or their means over runs of images.

    Parameters
    ----------
    features
        Activations without an obstacle, shape (batch, channels, height, width), not empty.
    spatial_power, channel_power
        The exponents; None leaves that map out.
    images_per_mean
        How many images, one after another, share a mean.

    Returns
    -------
    tuple
        As :func:`~attention_matching.matching.attention.attention_means` does.
    """
    spatial, channel = _Maps.apply(features, spatial_power or 0, channel_power or 0, images_per_mean)
    return spatial, channel


@dataclass(frozen=True)
class _Matrices:
    """Images as matrices in memory, with columns that lie side by side, and the parts that programs take of them."""

    spatial_columns: bool  # the columns are positions, and the rows channels; else the other way round
    shape: tuple[int, int]
    strides: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, like: _Matrices | None = None) -> _Matrices | None:
        """Lay out a tensor, with columns like another's where one is given; None where its positions lie apart."""
        _, channels, height, width = x.shape
        image, channel, row, column = x.stride()
        if width == 1:
            position = row
        elif height == 1 or row == width * column:
            position = column
        else:
            return None
        if (channels - 1) * channel + (height * width - 1) * position >= 2**31:
            return None  # the kernels count the places within an image in 32 bits
        if like is not None:
            spatial_columns = like.spatial_columns
        elif channels == 1 or height * width == 1:
            spatial_columns = channels == 1
        else:
            spatial_columns = position <= channel
        if spatial_columns:
            return cls(True, (channels, height * width), (image, channel, position))
        return cls(False, (height * width, channels), (image, position, channel))

    @property
    def tile(self) -> int:
        """How many columns a part has."""
        return min(WIDEST, max(16, _power_of_two(self.shape[1])))

    @property
    def block(self) -> int:
        """How many rows a program takes at once."""
        return ENTRIES // self.tile

    @property
    def chunk(self) -> int:
        """How many rows a part has: never a matter of the batch's size, so that an image's sums are not either."""
        return self.block * min(BLOCKS, -(-self.shape[0] // self.block))

    @property
    def parts(self) -> tuple[int, int]:
        """How many parts an image has, down and across."""
        return -(-self.shape[0] // self.chunk), -(-self.shape[1] // self.tile)


class _Maps(torch.autograd.Function):
    """Maps or means of maps; their gradient has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, spatial_power: int, channel_power: int, images_per_mean: int) -> Pair:
        """Run the kernels."""
        from attention_matching.matching import kernels

        layout = _Matrices.of(features)
        if layout is None:
            features = features.contiguous()
            layout = _Matrices.of(features)
            assert layout is not None
        powers = (spatial_power, channel_power) if layout.spatial_columns else (channel_power, spatial_power)
        batch, (chunks, tiles) = len(features), layout.parts

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=features.device)

        # Of columns and of rows: sums of parts, maps, inverse lengths; empty where a map is left out.
        sizes = [size if power else 0 for size, power in zip(layout.shape[::-1], powers, strict=True)]
        sums = [empty(batch, parts, size) for parts, size in zip((chunks, tiles), sizes, strict=True)]
        units = [empty(batch, size) for size in sizes]
        inverses = [empty(batch) for _ in sizes]
        scales = empty(batch)
        arguments = (features, *sums, *units, *inverses, scales, *layout.shape, chunks, tiles, *layout.strides)
        constants = (*powers, layout.chunk, layout.block, layout.tile)
        whole = chunks * tiles == 1
        with torch.cuda.device_of(features):
            kernels.sum_parts[(batch * chunks * tiles,)](*arguments, *constants, whole, **_OPTIONS)
            if not whole:
                kernels.finish_maps[(batch,)](*arguments, *constants, **_OPTIONS)
            results = [_means(u, images_per_mean) if p else None for u, p in zip(units, powers, strict=True)]
        ctx.save_for_backward(features, *units, *inverses, scales)
        ctx.layout, ctx.powers, ctx.images_per_mean = layout, powers, images_per_mean
        return (results[0], results[1]) if layout.spatial_columns else (results[1], results[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None, None]:
        """Run the kernels of the gradient."""
        from attention_matching.matching import kernels

        if torch.is_grad_enabled():  # under create_graph; torch's once_differentiable may leave the second part out
            raise InputError("gradients of the kernels' maps have no gradient of their own", "backend 'reference'")
        features, column_maps, row_maps, column_inverses, row_inverses, scales = ctx.saved_tensors
        layout, powers, batch = ctx.layout, ctx.powers, len(features)
        given = gradients if layout.spatial_columns else gradients[::-1]
        dense = [scales if g is None else g.contiguous() for g in given]  # scales: anything that is never read
        inner = [torch.empty_like(units) for units in (column_maps, row_maps)]
        result = torch.empty_like(features)
        target = _Matrices.of(result, layout)
        if target is None:
            result = torch.empty_like(features, memory_format=torch.contiguous_format)
            target = _Matrices.of(result, layout)
            assert target is not None
        n_rows, n_columns = layout.shape
        tile, tiles = layout.tile, layout.parts[1]
        with torch.cuda.device_of(features):
            kernels.sum_gradients[(batch,)](
                column_maps, row_maps, column_inverses, row_inverses, scales, *dense, *inner,
                ctx.images_per_mean, n_rows, n_columns, *powers, **_OPTIONS,
            )  # fmt: skip
            kernels.feature_gradients[lambda tuned: (batch * tiles * -(-n_rows // (tuned["ENTRIES"] // tile)),)](
                features, scales, *inner, result, n_rows, n_columns, tiles, *layout.strides, *target.strides,
                *powers, tile, **_OPTIONS,
            )  # fmt: skip
        return result, None, None, None


def _means(units: Tensor, images_per_mean: int) -> Tensor:
    """Average runs of maps."""
    from attention_matching.matching import kernels

    if images_per_mean == 1:
        return units
    n_means, size = len(units) // images_per_mean, units.shape[1]
    means = units.new_empty((n_means, size))
    images = min(64, _power_of_two(images_per_mean))
    tile = ENTRIES // 64
    kernels.mean_maps[(n_means, -(-size // tile))](units, means, images_per_mean, size, images, tile, **_OPTIONS)
    return means


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()
