"""Attention maps and distances by the Triton kernels: one read of the features forward, a read and a write backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.matching.reference import Pair, Powers

T = TypeVar("T")
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
def maps(features: Tensor, powers: Powers, images_per_mean: int = 1) -> Pair:
    """Compute the maps of checked arguments, or their means over runs of ``images_per_mean`` consecutive images."""
    spatial, channel = _Means.apply(features, powers, images_per_mean)
    return spatial, channel


@torch.compiler.disable  # type: ignore[untyped-decorator]
def distances(features: Tensor, powers: Powers, real: Pair, weights: tuple[float, float], n_classes: int) -> Tensor:
    """Compute :func:`reference.distances`: two launches for one image per class, and one for the gradient."""
    result: Tensor = _Distances.apply(features, powers, real, weights, n_classes)
    return result


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

    def oriented(self, pair: tuple[T, T]) -> tuple[T, T]:
        """Turn the order spatial, channel into columns, rows, or back."""
        return pair if self.spatial_columns else (pair[1], pair[0])

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


@dataclass
class _Maps:
    """The maps of images, as the kernels store them; pairs are in the order columns, rows."""

    features: Tensor
    layout: _Matrices
    powers: tuple[int, int]  # 0 for an omitted map
    sums: list[Tensor]  # of parts: (batch, parts, size)
    units: list[Tensor]  # (batch, size), written over the sums where these have one part
    inverses: list[Tensor]  # inverse lengths of the maps
    scales: Tensor  # by which images were multiplied first

    @classmethod
    def empty(cls, features: Tensor, powers: Powers) -> _Maps:
        """Reserve the memory."""
        layout = _Matrices.of(features)
        if layout is None:
            features = features.contiguous()
            layout = _Matrices.of(features)
            assert layout is not None
        oriented = [power or 0 for power in layout.oriented(powers)]
        sizes = [size if power else 0 for size, power in zip(layout.shape[::-1], oriented, strict=True)]
        batch = len(features)
        sums = [_empty(features, batch, n, size) for n, size in zip(layout.parts, sizes, strict=True)]
        units = [s.view(batch, -1) if s.shape[1] == 1 and s.numel() else _empty(s, batch, s.shape[2]) for s in sums]
        inverses, scales = [_empty(features, batch) for _ in sizes], _empty(features, batch)
        return cls(features, layout, (oriented[0], oriented[1]), sums, units, inverses, scales)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first arguments of the kernels that make maps."""
        tensors = (self.features, *self.sums, *self.units, *self.inverses, self.scales)
        return (*tensors, *self.layout.shape, *self.layout.parts, *self.layout.strides)

    @property
    def constants(self) -> tuple[int, ...]:
        """The compile-time constants of the same."""
        return (*self.powers, self.layout.chunk, self.layout.block, self.layout.tile)

    def compute(self, finish: bool = True) -> None:
        """Compute the maps, or only the sums of the images' parts."""
        from attention_matching.matching import kernels

        batch, parts = len(self.features), self.layout.parts[0] * self.layout.parts[1]
        whole = finish and parts == 1
        kernels.sum_parts[(batch * parts,)](*self.arguments, *self.constants, whole, **_OPTIONS)
        if finish and not whole:
            kernels.finish_maps[(batch,)](*self.arguments, *self.constants, **_OPTIONS)

    def tiles(self, n_images: int) -> _Tiles:
        """Return the blocks in which kernels process the maps of a class."""
        images = min(64, _power_of_two(n_images))
        size = max(units.shape[1] for units in self.units)
        tile = max(16, min(_power_of_two(size), ENTRIES // images))
        return _Tiles(images, tile, -(-size // tile))

    def gradient(self, gradients: Sequence[Tensor], products: Sequence[Tensor], upstream: Tensor) -> Tensor:
        """Compute the features' gradient from the means', with a factor for each mean."""
        from attention_matching.matching import distance_kernels

        features, layout, (n_rows, n_columns) = self.features, self.layout, self.layout.shape
        result = torch.empty_like(features)
        target = _Matrices.of(result, layout)
        if target is None:
            result = torch.empty_like(features, memory_format=torch.contiguous_format)
            target = _Matrices.of(result, layout)
            assert target is not None
        batch, tile, tiles = len(features), layout.tile, layout.parts[1]
        map_tiles = products[0].shape[1]
        distance_kernels.feature_gradients[lambda tuned: (batch * tiles * -(-n_rows // (tuned["ENTRIES"] // tile)),)](
            features, self.scales, upstream, *self.inverses, *self.units, *gradients, *products, result,
            batch // len(upstream), n_rows, n_columns, tiles, map_tiles, upstream.stride(0),
            *layout.strides, *target.strides, *self.powers, tile, _power_of_two(map_tiles), **_OPTIONS,
        )  # fmt: skip
        return result


class _Tiles(NamedTuple):
    """Blocks of maps: images, entries, and the number of tiles that cover a map."""

    images: int
    tile: int
    per_map: int


class _Means(torch.autograd.Function):
    """Maps or means of maps, differentiable once."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, powers: Powers, images_per_mean: int) -> Pair:
        """Run the kernels."""
        with torch.cuda.device_of(features):
            maps = _Maps.empty(features, powers)
            maps.compute()
            results = [_means(u, images_per_mean) if p else None for u, p in zip(maps.units, maps.powers, strict=True)]
        _save(ctx, maps)
        ctx.images_per_mean = images_per_mean
        return maps.layout.oriented((results[0], results[1]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None]:
        """Run the kernels of the gradient."""
        from attention_matching.matching import distance_kernels

        maps, _ = _saved(ctx)
        batch, n_images = len(maps.features), ctx.images_per_mean
        oriented = maps.layout.oriented((gradients[0], gradients[1]))
        dense = [maps.scales if g is None else g.contiguous() for g in oriented]  # scales: a placeholder, never read
        with torch.cuda.device_of(maps.features):
            images, tile, per_map = maps.tiles(n_images)
            products = [_empty(maps.scales, batch, per_map) for _ in maps.units]
            distance_kernels.multiply_maps[(batch // n_images, per_map)](
                *maps.units, *dense, *products, n_images, *maps.layout.shape, per_map, *maps.powers, images, tile,
                **_OPTIONS,
            )  # fmt: skip
            result = maps.gradient(dense, products, maps.scales.new_ones(1).expand(batch // n_images))
        return result, None, None


class _Distances(torch.autograd.Function):
    """Squared distances of class means from real ones, differentiable once with respect to the features."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, powers: Powers, real: Pair, weights: tuple[float, float], n_classes: int
    ) -> Tensor:
        """Run the kernels."""
        from attention_matching.matching import distance_kernels

        with torch.cuda.device_of(features):
            maps = _Maps.empty(features, powers)
            n_images = len(features) // n_classes
            maps.compute(finish=n_images > 1)
            images, tile, per_map = maps.tiles(n_images)
            products = [_empty(maps.scales, len(features), per_map) for _ in maps.units]
            gradients = [_empty(maps.scales, n_classes, units.shape[1]) for units in maps.units]
            means = [maps.scales if r is None else r.float().contiguous() for r in maps.layout.oriented(real)]
            result = _empty(maps.scales, n_classes, 1 if n_images == 1 else per_map)
            arguments = (*means, *gradients, *products, result, *maps.layout.oriented(weights))
            if n_images == 1:
                distance_kernels.finish_and_compare[(n_classes,)](
                    *maps.arguments, *arguments, per_map, *maps.constants, tile, **_OPTIONS
                )
            else:
                distance_kernels.compare_maps[(n_classes, per_map)](
                    *maps.units, *arguments, n_images, *maps.layout.shape, per_map, *maps.powers, images, tile,
                    **_OPTIONS,
                )  # fmt: skip
        _save(ctx, maps, *gradients, *products)
        return result[:, 0] if result.shape[1] == 1 else result.sum(dim=1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Run the kernel of the gradient."""
        maps, (*gradients, column_products, row_products) = _saved(ctx)
        with torch.cuda.device_of(maps.features):
            result = maps.gradient(gradients, (column_products, row_products), upstream[0])
        return result, None, None, None, None


def _save(ctx: Any, maps: _Maps, *others: Tensor) -> None:
    """Save what the gradient needs."""
    ctx.save_for_backward(maps.features, *maps.units, *maps.inverses, maps.scales, *others)
    ctx.layout, ctx.powers = maps.layout, maps.powers


def _saved(ctx: Any) -> tuple[_Maps, tuple[Tensor, ...]]:
    """Return what was saved."""
    if torch.is_grad_enabled():  # create_graph; torch's once_differentiable may miss it
        raise InputError("the kernels are differentiable only once", "backend 'reference' for second derivatives")
    features, u, v, i, j, scales, *others = ctx.saved_tensors
    return _Maps(features, ctx.layout, ctx.powers, [], [u, v], [i, j], scales), tuple(others)


def _means(units: Tensor, images_per_mean: int) -> Tensor:
    """Average runs of maps."""
    from attention_matching.matching import distance_kernels

    if images_per_mean == 1:
        return units
    n_means, size = len(units) // images_per_mean, units.shape[1]
    means = units.new_empty((n_means, size))
    images = min(64, _power_of_two(images_per_mean))
    tile = ENTRIES // 64
    grid = (n_means, -(-size // tile))
    distance_kernels.mean_maps[grid](units, means, images_per_mean, size, images, tile, **_OPTIONS)
    return means


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()
