"""A trained network with what its inputs and outputs are: to predict, to save, and to share on the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from sextet_common import checkpoint, hub, text
from sextet_common.errors import InputError
from torch import Tensor, nn

from subclass_kd.data import Part
from subclass_kd.hierarchy import Hierarchy
from subclass_kd.inference import predict
from subclass_kd.networks import architecture_of
from subclass_kd.saved import WEIGHTS, described, load_into, rebuilt, save_weights


@dataclass(frozen=True, eq=False)
class Classifier:
    """A teacher or a student with its hierarchy; ``network`` maps (n, *input_shape) to one logit per subclass.

    Examples
    --------
    >>> import tempfile
    >>> from subclass_kd import build
    >>> pets = Hierarchy.from_dict({"cat": ["siamese", "persian"], "dog": ["poodle"]})
    >>> student = Classifier(build("convnet", (3, 8, 8), 3, width=4), pets, (3, 8, 8))
    >>> folder = Path(tempfile.mkdtemp()) / "student"
    >>> student.export_hub(folder, license="mit")
    >>> Classifier.from_pretrained(folder).predict_proba(np.zeros((2, 3, 8, 8), dtype=np.uint8)).shape
    torch.Size([2, 2])
    """

    network: nn.Module
    hierarchy: Hierarchy
    input_shape: tuple[int, int, int]

    def predict_proba(self, images: np.ndarray | Tensor) -> Float[Tensor, "images classes"]:
        """Return the probability of every class, on the CPU; images are uint8 in 0..255 or floats in [0, 1]."""
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
        array = array if array.dtype == np.uint8 else array.astype(np.float32)
        if array.shape[1:] != self.input_shape or not len(array):
            raise InputError(f"images have shape {array.shape}", f"(n, {', '.join(map(str, self.input_shape))})")
        logits = predict(self.network, Part(array, np.zeros(len(array), dtype=np.int64)))
        return self.hierarchy.class_log_probs(logits).exp()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model.safetensors into a folder."""
        save_weights(self.network, self.hierarchy, self.input_shape, Path(folder))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, network: nn.Module | None = None, revision: str | None = None
    ) -> Classifier:
        """Read a finished run folder, an exported one, or the repository OWNER/NAME of the Hub (extra ``hub``).

        A custom network, which `build` did not make, is needed as ``network``: its weights are in the file.
        ``revision`` is a branch, tag or commit.
        """
        folder = hub.local_folder(name_or_path, revision=revision)
        path = folder / WEIGHTS
        saved = checkpoint.load(path, "torch")
        hierarchy, input_shape = described(saved.meta, path)
        architecture = saved.meta.get("architecture")
        if network is not None:
            return cls(load_into(network, path).eval(), hierarchy, input_shape)
        if not isinstance(architecture, Mapping):
            raise InputError(f"{path} has the weights of a custom network", "that network, as network")
        return cls(rebuilt(saved, architecture, input_shape, hierarchy.n_subclasses, path), hierarchy, input_shape)

    def export_hub(
        self, path: str | os.PathLike[str], *, license: str = "unknown", scores: Mapping[str, float] | None = None
    ) -> None:
        """Write a new folder for the Hugging Face Hub: a model card and model.safetensors.

        ``license`` is an identifier of the Hub, such as mit. ``scores`` of the test images come into the card.
        """
        head = {
            "library_name": "subclass-kd",
            "license": license,
            "pipeline_tag": "image-classification",
            "tags": ["subclass-kd", "knowledge-distillation", "image-classification"],
        }
        with hub.new_folder(path) as folder:
            self.save(folder)
            (folder / "README.md").write_text(hub.card(head, self._body(scores or {})), encoding="utf-8")

    def _body(self, scores: Mapping[str, float]) -> str:
        architecture: Mapping[str, Any] = architecture_of(self.network) or {}
        name = architecture.get("network") or type(self.network).__name__
        channels, height, width = self.input_shape
        rows = [(name, ", ".join(names)) for name, names in self.hierarchy.as_dict().items()]
        lines = [
            "# An image classifier trained with subclasses",
            f"The network {text.markdown(name)} takes images of {height} x {width} pixels with {channels} channels, "
            f"values in [0, 1], and has {self.hierarchy.n_subclasses} outputs, one for every subclass. A class's "
            "probability is the sum of its subclasses'.",
            text.markdown_table(("class", "subclasses"), rows),
        ]
        if scores:
            cells = [(name, f"{100 * value:.2f}") for name, value in scores.items()]
            lines += ["Scores on the test images, per cent:", text.markdown_table(("score", "value"), cells)]
        lines += [
            "```python\nfrom subclass_kd import Classifier\n\n"
            'model = Classifier.from_pretrained("OWNER/NAME")  # or this folder\n'
            "probabilities = model.predict_proba(images)  # (n, classes)\n```"
        ]
        return "\n\n".join(lines)
