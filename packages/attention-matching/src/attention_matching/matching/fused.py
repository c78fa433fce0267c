"""Attention maps by the Triton kernels: one read of the features forward, one read and one write backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.matching.reference import Pair

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ENTRIES = 4096  # of an image that a program of four warps holds in registers at once
MAX_TILE = 256  # columns of a part: wide enough for full memory transactions, narrow enough for many parts
BLOCKS = 8  # multiples of ENTRIES that a program sums before it writes
# Explicit, because the default, and with it the last digits, differs between Triton's releases.
_OPTIONS = {"enable_fp_fusion": True}


def obstacle(features: Tensor) -> str | None:
    """Return the reason why the kernels cannot process these features, or None."""
    if features.dtype not in DTYPES:
        return f"the features are {features.dtype}, not float32, bfloat16 or float16"
    try:
        from attention_matching.matching import kernels
    except ImportError as error:  # Triton 3.2 does not declare one of its dependencies
        return f"Triton cannot be imported: {error}"

    if features.device.type != "cuda":
        return None if kernels.INTERPRETED else f"the features are on {features.device.type}, not on a CUDA device"
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(features.device)
        required = (8, 0) if features.dtype == torch.bfloat16 else (7, 0)
        if capability < required:
            return f"the GPU has compute capability {capability[0]}.{capability[1]}, not {required[0]}.{required[1]}"
    return None


# The kernels are compiled already; torch.compile need not trace their launches.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's has no types
def maps(features: Tensor, spatial_power: int | None, channel_power: int | None, images_per_mean: int = 1) -> Pair:
    """Compute the maps of checked arguments, or their means over runs of ``images_per_mean`` consecutive images."""
    spatial, channel = _Maps.apply(features, spatial_power or 0, channel_power or 0, images_per_mean)
    return spatial, channel


@dataclass(frozen=True)
class _Matrices:
    """Images as matrices with columns along the memory, and the parts that programs process."""

    spatial_columns: bool  # columns are positions and rows channels; otherwise vice versa
    shape: tuple[int, int]
    strides: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, like: _Matrices | None = None) -> _Matrices | None:
        """Lay out a tensor, with the orientation of ``like``; None if its positions have no common stride."""
        _, channels, height, width = x.shape
        image, channel, row, column = x.stride()
        if width == 1:
            position = row
        elif height == 1 or row == width * column:
            position = column
        else:
            return None
        if (channels - 1) * channel + (height * width - 1) * position >= 2**31:
            return None  # the kernels index within an image in 32 bits
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
        """Columns of a part."""
        return min(MAX_TILE, max(16, _power_of_two(self.shape[1])))

    @property
    def block(self) -> int:
        """Rows that a program processes at once."""
        return ENTRIES // self.tile

    @property
    def chunk(self) -> int:
        """Rows of a part: independent of the batch size, so that an image's sums are too."""
        return self.block * min(BLOCKS, -(-self.shape[0] // self.block))

    @property
    def parts(self) -> tuple[int, int]:
        """Parts of an image, down and across."""
        return -(-self.shape[0] // self.chunk), -(-self.shape[1] // self.tile)


class _Maps(torch.autograd.Function):
    """Maps or means of maps, differentiable once."""

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

        # For columns and for rows: sums of parts, maps, inverse lengths; empty for an omitted map.
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

        if torch.is_grad_enabled():  # create_graph; torch's once_differentiable may miss it
            raise InputError("the kernels are differentiable only once", "backend 'reference' for second derivatives")
        features, column_maps, row_maps, column_inverses, row_inverses, scales = ctx.saved_tensors
        layout, powers, batch = ctx.layout, ctx.powers, len(features)
        oriented = gradients if layout.spatial_columns else gradients[::-1]
        dense = [scales if g is None else g.contiguous() for g in oriented]  # scales: a placeholder, never read
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
