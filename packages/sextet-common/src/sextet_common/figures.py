"""PNG figures in one style: image grids and curves."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from sextet_common import files, text
from sextet_common.errors import InputError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#5f4b8b", "#8d99ae")
BACKGROUND = 0.6  # grey, to set black and white images off from the gaps
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
Images: TypeAlias = Float[np.ndarray, "images channels height width"]
"""Images; values are clipped to [0, 1], which distilled pixels may leave."""
Curve: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Values of x and y; non-finite points are not drawn."""


def grid(images: Images, columns: int | None = None, *, gap: int = 1) -> UInt8[np.ndarray, "rows columns 3"]:
    """Arrange images in rows of ``columns``, by default in a square, on grey with ``gap`` pixels between them.

    The channels of images with 2 or more than 3 are drawn in grey, side by side.

    Examples
    --------
    >>> grid(np.zeros((10, 1, 8, 8)), columns=5).shape
    (19, 46, 3)
    """
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(f"images of shape {images.shape}", "(n, c, h, w), none of them 0")
    if images.shape[1] not in (1, 3):
        images = np.moveaxis(images, 1, 2).reshape(len(images), 1, images.shape[2], -1)
    count, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    picture = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), BACKGROUND)
    for number, image in enumerate(images):
        top, left = (number // columns) * (height + gap) + gap, (number % columns) * (width + gap) + gap
        picture[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def save_grid(
    images: Images, path: str | os.PathLike[str], columns: int | None = None, *, scale: int | None = None
) -> None:
    """Save a :func:`grid` as PNG; each image pixel becomes ``scale`` screen pixels, by default about 64 per image."""
    picture = grid(images, columns)
    scale = scale or max(1, round(64 / images.shape[-1]))
    image_module = require("PIL.Image", package="sextet-common", extra="figures")
    enlarged = image_module.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))
    with files.replacing(path) as temporary:
        enlarged.save(temporary, format="png")


def save_panels(
    panels: Mapping[str, Images],
    path: str | os.PathLike[str],
    columns: int,
    *,
    title: str = "",
    column_names: Sequence[str] = (),
    row_names: Sequence[str] = (),
) -> None:
    """Save one :func:`grid` per title as PNG, from top to bottom, with names above its columns and beside its rows.

    Classes in the columns, for example: ``column_names=data.classes``. Row names are those of every panel.
    """
    if column_names and len(column_names) != columns:
        raise InputError(f"{len(column_names)} names of columns", f"{columns}, one per column")
    pictures = {name: grid(images, columns) for name, images in panels.items()}
    ratios = [picture.shape[0] / picture.shape[1] for picture in pictures.values()]
    above = (0.35 if any(panels) else 0) + (0.2 if column_names else 0)
    height = sum(7 * ratio + above for ratio in ratios) + (0.35 if title else 0)
    with figure_file(path, (7.0, height), title=title) as figure:
        axes = figure.subplots(len(pictures), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
        for axis, (name, picture), images in zip(axes, pictures.items(), panels.values(), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(text.label(name), loc="left")
            axis.spines[:].set_visible(False)
            axis.grid(visible=False)
            axis.tick_params(length=0, labelsize=8, top=True, bottom=False, labeltop=True, labelbottom=False)
            rows = math.ceil(len(images) / columns)
            places = ((picture.shape[1] - 1) / columns, column_names), ((picture.shape[0] - 1) / rows, row_names)
            for set_ticks, (step, names) in zip((axis.set_xticks, axis.set_yticks), places, strict=True):
                centres = [step * (number + 0.5) for number in range(len(names))]
                set_ticks(centres, [text.label(name) for name in names])


def save_curves(
    curves: Mapping[str, Curve], path: str | os.PathLike[str], *, x_label: str, y_label: str, title: str = ""
) -> None:
    """Save named curves as PNG; the axis labels include units."""
    with figure_file(path, (6.0, 3.4), title=title) as figure:
        axis = figure.subplots()
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.set_prop_cycle(color=COLOURS)
        for name, (x, y) in curves.items():
            axis.plot(x, y, label=text.label(name), linewidth=1.4)
        if len(curves) > 1:
            axis.legend(frameon=False)


@contextmanager
def figure_file(path: str | os.PathLike[str], inches: tuple[float, float], *, title: str = "") -> Iterator[Figure]:
    """Yield an empty matplotlib figure, apart from pyplot's global state; save it as PNG unless the block raises.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/line.png"
    >>> with figure_file(path, (3.0, 2.0), title="a line") as figure:
    ...     _ = figure.subplots().plot([0, 1], [0, 1], color=COLOURS[0])
    >>> os.path.exists(path)
    True
    """
    matplotlib: Any = require("matplotlib", package="sextet-common", extra="figures")
    figure_module: Any = require("matplotlib.figure", package="sextet-common", extra="figures")
    with matplotlib.rc_context(_STYLE):
        figure: Figure = figure_module.Figure(figsize=inches, layout="constrained")
        yield figure
        if title:
            figure.suptitle(text.label(title, limit=100), fontsize=11)
        with files.replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a script that the font lacks shows as boxes
            figure.savefig(temporary, format="png", dpi=130)
