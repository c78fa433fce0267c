"""What is deployed: encoder and classifier without the head, as ONNX or as torch's exported program."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from sextet_common import files
from sextet_common.errors import InputError, require
from torch import nn

from probmcl.model import ProbMCL

Format = Literal["onnx", "pt2"]
OUTPUT = "probabilities"


class Deployed(nn.Module):
    """Encoder and classifier: inputs to probabilities.

    Parameters
    ----------
    logits
        What `ProbMCL.inference` returned.
    """

    def __init__(self, logits: nn.Module) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs (batch, *input_shape) to probabilities (batch, labels)."""
        return torch.sigmoid(self.logits(inputs))


def export(model: ProbMCL, path: str | os.PathLike[str]) -> Path:
    """Write a model's encoder and classifier for use without this library; any number of rows at a time.

    Parameters
    ----------
    model
        A trained model.
    path
        ``.onnx`` (extra ``onnx``): input "inputs", output "probabilities", the labels' names as JSON in the metadata
        "label_names". ``.pt2``: what ``torch.export.load`` reads, the names in the extra file "label_names".

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        For another ending, a model that is not trained, or an encoder that cannot be exported.

    Examples
    --------
    >>> import tempfile
    >>> from probmcl.config import Config
    >>> from probmcl.scenes import compose, digits
    >>> data = compose(digits(), sizes=(32, 16, 16))
    >>> config = Config(epochs=1, classifier_epochs=1, batch_size=32, dim=8, hidden=())
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
            warnings.simplefilter("ignore")  # the exporters' own deprecations
            program = torch.export.export(deployed, (example,), dynamic_shapes=dynamic)
    except Exception as error:  # torch.export has many kinds, all about the encoder's code
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the encoder cannot be exported: {first}", "one that torch.export takes") from error
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
        made: Any = torch.onnx.export(
            program, dynamo=True, input_names=["inputs"], output_names=[OUTPUT], verbose=False
        )
    proto = made.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "label_names", names
    path.write_bytes(proto.SerializeToString())
