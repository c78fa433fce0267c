"""Networks in run folders: their weights, and how to build them again."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sextet_common import checkpoint, files
from sextet_common.errors import STRUCTURE, InputError, reading
from torch import nn

from subclass_kd.data import SubclassSet
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.networks import architecture_of, build

WEIGHTS = "model.safetensors"
RECIPE = "network.json"
_EXPECTED = "a finished run folder of the commands teacher or distill"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a command built a network from: the network's name and width, and the options that name the data."""

    data: str
    network: str
    width: int | None
    size: int | None
    channels: int | None = None
    hierarchy: str | None = None
    subclasses: str | None = None
    fold: str | None = None

    @classmethod
    def read(cls, run: Path) -> Recipe:
        """Read the recipe of a run folder."""
        with reading(run / RECIPE, _EXPECTED, *STRUCTURE):
            table = dict(json.loads((run / RECIPE).read_text(encoding="utf-8")))
            options = (table.get(name) for name in ("size", "channels", "hierarchy", "subclasses", "fold"))
            return cls(str(table["data"]), str(table["network"]), table["width"], *options)

    def write(self, run: Path) -> None:
        """Write the recipe into a run folder."""
        files.write_text(run / RECIPE, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def save_weights(network: nn.Module, hierarchy: Hierarchy, input_shape: tuple[int, int, int], folder: Path) -> None:
    """Save a network's weights in a folder, with what its inputs and outputs are and what it was built from."""
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    meta = {
        "model": "subclass-kd",
        "subclasses": list(hierarchy.subclass_names),
        "classes": list(hierarchy.class_names),
        "class_of": hierarchy.class_of.tolist(),
        "input_shape": list(input_shape),
        "preprocessing": "RGB or gray images, scaled and cropped to input_shape, values in [0, 1]",
        "architecture": architecture_of(network),
    }
    checkpoint.save(folder / WEIGHTS, state, meta)


def described(meta: dict[str, Any], path: Path) -> tuple[Hierarchy, tuple[int, int, int]]:
    """Return the hierarchy and the input shape that saved weights name."""
    if meta.get("model") != "subclass-kd":
        raise InputError(f"{path} does not say what its inputs and outputs are", "a model of this release")
    with reading(path, "a file that this package wrote", *STRUCTURE):
        hierarchy = Hierarchy(np.array(meta["class_of"], dtype=np.int64), meta["subclasses"], meta["classes"])
        channels, height, width = (int(number) for number in meta["input_shape"])
    return hierarchy, (channels, height, width)


def rebuilt(
    saved: checkpoint.Checkpoint, architecture: Any, input_shape: tuple[int, int, int], outputs: int, path: Path
) -> nn.Module:
    """Build the network of saved weights, in evaluation mode; settings that do not fit the weights take no memory."""

    def blank() -> nn.Module:
        return build(architecture["network"], input_shape, outputs, width=architecture["width"])

    with reading(path, _EXPECTED, *STRUCTURE, RuntimeError):
        with torch.device("meta"):  # compare shapes before taking memory: the width may be anything
            shapes = {name: tuple(tensor.shape) for name, tensor in blank().state_dict().items()}
        if shapes != {name: tuple(array.shape) for name, array in saved.arrays.items()}:
            raise InputError(f"{path} does not fit the weights beside it", _EXPECTED)
        network = blank()
        network.load_state_dict(saved.arrays)
    return network.eval()


def load_into(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load the weights of a run folder, or of its weights file, into a network of the same architecture."""
    path = Path(path)
    loaded = checkpoint.load(path / WEIGHTS if path.is_dir() else path, "torch")
    try:
        network.load_state_dict(loaded.arrays)
    except RuntimeError as error:
        raise InputError(f"{path} holds another network's weights", "those of this network") from error
    return network


def rebuild(run: Path, data: SubclassSet) -> nn.Module:
    """Build the network of a run folder, or of one from the Hub, with its weights, in evaluation mode."""
    saved = checkpoint.load(run / WEIGHTS, "torch")
    architecture, path = saved.meta.get("architecture"), run / WEIGHTS
    if (run / RECIPE).exists() or architecture is None:
        architecture, path = dataclasses.asdict(Recipe.read(run)), run / RECIPE
    if saved.meta.get("subclasses") != list(data.hierarchy.subclass_names):
        raise InputError(f"{run} has other subclasses than the data", "the data that it was trained on")
    return rebuilt(saved, architecture, data.input_shape, data.hierarchy.n_subclasses, path)
