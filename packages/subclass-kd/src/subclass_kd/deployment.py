"""Export of a network with its class probabilities, as ONNX or as torch's exported program."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from sextet_common import files
from sextet_common.checks import check
from sextet_common.errors import InputError, require
from torch import Tensor, nn

from subclass_kd.class_sum import ClassSum
from subclass_kd.classifier import Classifier

Output = Literal["classes", "subclasses"]


class Deployed(nn.Module):
    """A network with its last step, from images in [0, 1] to the probabilities of classes or of subclasses."""

    def __init__(self, model: Classifier, output: Output = "classes") -> None:
        super().__init__()
        self.network = model.network
        self.sums = ClassSum(model.hierarchy) if output == "classes" else None

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """Map images to probabilities."""
        logits: Tensor = self.network(images)
        return torch.softmax(logits if self.sums is None else self.sums(logits), dim=1)


def export(model: Classifier, path: str | os.PathLike[str], *, output: Output = "classes") -> Path:
    """Write a network for use without this library, for any number of images; return the file.

    ``path`` ends in ``.onnx`` (extra ``onnx``) or ``.pt2``, which ``torch.export.load`` reads. The input "images" are
    float32 in [0, 1], the output "probabilities" has a column for each class, or for each subclass. The columns' names
    are JSON in the metadata "names", in a .pt2 file the extra file "names".

    Examples
    --------
    >>> import tempfile
    >>> from subclass_kd import Hierarchy, build
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> student = Classifier(build("convnet", (3, 8, 8), 3, width=4), pets, (3, 8, 8))
    >>> path = export(student, Path(tempfile.mkdtemp()) / "student.pt2")
    >>> torch.export.load(path).module()(torch.rand(5, 3, 8, 8)).shape
    torch.Size([5, 2])
    """
    path = Path(path)
    check("output", output, Output)
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}", ".onnx or .pt2")
    if path.suffix == ".onnx":
        for module in ("onnx", "onnxscript"):
            require(module, package="subclass-kd", extra="onnx")
    tree = model.hierarchy
    names = json.dumps(list(tree.class_names if output == "classes" else tree.subclass_names))
    program = _program(Deployed(model, output), model.input_shape)
    with files.replacing(path) as temporary:
        if path.suffix == ".pt2":
            with temporary.open("wb") as file:
                torch.export.save(program, file, extra_files={"names": names})
        else:
            temporary.write_bytes(_onnx(program, names))
    return path


def _program(network: nn.Module, input_shape: tuple[int, int, int]) -> Any:
    """Trace the network in evaluation mode on the CPU, for any number of images; the module is restored."""
    was_training, parameter = [m.training for m in network.modules()], next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            rows = ({0: torch.export.Dim("batch")},)
            return torch.export.export(network.eval().cpu(), (torch.zeros(2, *input_shape),), dynamic_shapes=rows)
    except Exception as error:  # torch.export raises many kinds, all about the network's code
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"the network cannot be exported: {first}", "one that torch.export accepts") from error
    finally:
        network.to(device)
        for module, training in zip(network.modules(), was_training, strict=True):
            module.training = training


def _onnx(program: Any, names: str) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        exported: Any = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["probabilities"], verbose=False
        )
    proto = exported.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "names", names
    content: bytes = proto.SerializeToString()
    return content
