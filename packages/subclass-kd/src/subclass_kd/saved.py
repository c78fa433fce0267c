"""Networks in run folders: their weights, and how to build them again."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import torch
from sextet_common import checkpoint, files
from sextet_common.errors import STRUCTURE, InputError, reading
from torch import nn

from subclass_kd.data import SubclassSet
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.networks import build

WEIGHTS = "model.safetensors"
RECIPE = "network.json"
_EXPECTED = "a finished run folder of the commands teacher or distill"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a command built a network from: the data, the network's name, its width, and the size of images on disk."""

    data: str
    network: str
    width: int | None
    size: int | None

    @classmethod
    def read(cls, run: Path) -> Recipe:
        """Read the recipe of a run folder."""
        with reading(run / RECIPE, _EXPECTED, *STRUCTURE):
            table = dict(json.loads((run / RECIPE).read_text(encoding="utf-8")))
            return cls(str(table["data"]), str(table["network"]), table["width"], table.get("size"))

    def write(self, run: Path) -> None:
        """Write the recipe into a run folder."""
        files.write_text(run / RECIPE, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def save_weights(network: nn.Module, hierarchy: Hierarchy, run: Path) -> None:
    """Save a network's weights and the names of its outputs in a run folder."""
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    checkpoint.save(run / WEIGHTS, state, {"subclasses": list(hierarchy.subclass_names)})


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
    """Build the network of a run folder with its weights, in evaluation mode."""
    recipe, saved = Recipe.read(run), checkpoint.load(run / WEIGHTS)
    if saved.meta.get("subclasses") != list(data.hierarchy.subclass_names):
        raise InputError(f"{run} has other subclasses than the data", "the data that it was trained on")

    def blank() -> nn.Module:
        return build(recipe.network, data.input_shape, data.hierarchy.n_subclasses, width=recipe.width)

    with reading(run / RECIPE, _EXPECTED, TypeError, RuntimeError):
        with torch.device("meta"):  # compare shapes before taking memory: the width may be anything
            shapes = {name: tuple(tensor.shape) for name, tensor in blank().state_dict().items()}
        if shapes != {name: tuple(array.shape) for name, array in saved.arrays.items()}:
            raise InputError(f"{run / RECIPE} does not fit the weights beside it", _EXPECTED)
        network = blank()
    return load_into(network, run).eval()
