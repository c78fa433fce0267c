"""Export of encoder and classifier, without the head, as ONNX or as torch's exported program."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from sextet_common import files
from sextet_common.errors import InputError, require
from torch import nn

from probmcl.model import ProbMCL

OUTPUT = "probabilities"


class Deployed(nn.Module):
    """Encoder and classifier, from inputs to probabilities."""

    def __init__(self, logits: nn.Module) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs (batch, *input_shape) to probabilities (batch, labels)."""
        return torch.sigmoid(self.logits(inputs))


def export(model: ProbMCL, path: str | os.PathLike[str]) -> Path:
    """Write a model's encoder and classifier for use without this library, for any number of rows; return the file.

    ``path`` ends in ``.onnx`` (extra ``onnx``) or ``.pt2``. The ONNX file has the input "inputs", the output
    "probabilities" and the names of the labels as JSON in the metadata "label_names". ``torch.export.load`` reads the
    other, with the names in the extra file "label_names".

    Examples
    --------
    >>> import tempfile
    >>> from probmcl import Config
    >>> from probmcl.scenes import compose, digits
    >>> data = compose(digits(), sizes=(32, 16, 16))
    >>> config = Config(epochs=1, classifier_epochs=1, batch_size=32)
    >>> model = ProbMCL("convnet", config=config, width=4).fit(data)
    >>> path = export(model, Path(tempfile.mkdtemp()) / "model.pt2")
    >>> program = torch.export.load(path).module()
    >>> bool(torch.allclose(program(data.test.batch([0, 1])), model.predict_proba(data.test)[:2], atol=1e-6))
    True
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}", ".onnx or .pt2")
    if path.suffix == ".onnx":
        for module in ("onnx", "onnxscript"):
            require(module, package="probmcl", extra="onnx")
    deployed = Deployed(model.inference())
    example = torch.zeros(2, *model.input_shape)
    dynamic = ({0: torch.export.Dim("batch")},)
    names = json.dumps(list(model.label_names))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporters
            program = torch.export.export(deployed, (example,), dynamic_shapes=dynamic)
    except Exception as error:  # torch.export raises many kinds, all about the encoder's code
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the encoder cannot be exported: {first}", "one that torch.export accepts") from error
    with files.replacing(path) as temporary:
        if path.suffix == ".pt2":
            with open(temporary, "wb") as file:
                torch.export.save(program, file, extra_files={"label_names": names})
        else:
            _write_onnx(program, temporary, names)
    return path


def _write_onnx(program: Any, path: Path, names: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported: Any = torch.onnx.export(
            program, dynamo=True, input_names=["inputs"], output_names=[OUTPUT], verbose=False
        )
    proto = exported.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "label_names", names
    path.write_bytes(proto.SerializeToString())
