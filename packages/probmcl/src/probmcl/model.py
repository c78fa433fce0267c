"""A multi-label classifier with a mixture of every image behind it: fit, predict, be unsure, save."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import checkpoint, device, runs
from sextet_common.errors import InputError, reading
from sextet_common.seeding import torch_seed
from torch import Tensor, nn

from probmcl import encoders, metrics, train
from probmcl.augment import Augmentation
from probmcl.config import Config
from probmcl.data import ArraySplit, MultiLabelSet, Split, checked_labels
from probmcl.encoders import Encoder
from probmcl.head import MixtureParameters
from probmcl.uncertainty import Uncertainty, uncertainty

JOB = "probmcl train"
FILE = "model.safetensors"
_OWN = "a module of one's own"

Inputs = Split | np.ndarray | Tensor


class ProbMCL:
    """A multi-label classifier, trained in two stages (ProbMCL) or by one of its rivals.

    First stage: two views of every image pass the encoder and a mixture density head, and the mixtures of images whose
    label sets overlap are drawn together. Second stage: the encoder is frozen and a linear classifier learns on its
    features. The head is kept for `uncertainty` alone: a prediction costs the encoder and one linear layer.

    Parameters
    ----------
    encoder
        A name, as for `probmcl.encoders.build`, or a module that maps inputs to features.
    n_labels
        How many labels there are; where not given, as many as the data have.
    config
        How to train.
    width, weights
        Of an encoder that is named: its width, and a local file of pre-trained weights.

    References
    ----------
    arXiv 2401.01448.

    Examples
    --------
    >>> from probmcl.scenes import compose, digits
    >>> data = compose(digits(), sizes=(64, 32, 32))
    >>> config = Config(epochs=1, classifier_epochs=1, batch_size=32, dim=8, hidden=(16,))
    >>> model = ProbMCL("convnet", 10, config, width=4).fit(data)
    >>> model.predict_proba(data.test).shape, model.uncertainty(data.test).between.shape
    (torch.Size([32, 10]), torch.Size([32]))
    """

    def __init__(
        self,
        encoder: str | nn.Module = "convnet",
        n_labels: int | None = None,
        config: Config | None = None,
        *,
        width: int | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        if n_labels is not None and n_labels < 1:
            raise InputError(f"n_labels is {n_labels}", "a whole number >= 1")
        self.encoder, self.n_labels, self.config = encoder, n_labels, config or Config()
        self.width, self.weights = width, None if weights is None else Path(weights)
        self.label_names: tuple[str, ...] = ()
        self.input_shape: tuple[int, ...] = ()
        self.source = ""
        self._network: train.Network | None = None
        self._where = torch.device("cpu")

    def fit(self, data: MultiLabelSet, out: str | os.PathLike[str] | None = None) -> ProbMCL:
        """Train.

        Parameters
        ----------
        data
            What to learn from. The validation part serves the calibration.
        out
            A run folder, for checkpoints, metrics.jsonl and the model. A folder that holds an unfinished run with the
            same settings and data is gone on with, to the same numbers.

        Returns
        -------
        ProbMCL
            This object.

        Raises
        ------
        InputError
            Where a setting does not fit the data, the folder holds something else, or the loss is no longer finite.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the step is done and checkpointed.
        """
        if self.n_labels not in (None, data.n_labels):
            raise InputError(f"the data have {data.n_labels} labels", f"n_labels, {self.n_labels}")
        needed = self.config.require_labels
        labels = checked_labels(data.train.labels, data.n_labels, f"{data.source}, train", at_least_one=needed)
        if not labels.any():
            raise InputError(f"{data.source}: no training row has a label", "positives to learn from")
        where = device.pick(self.config.device)
        network = self._build(data.input_shape, data.n_labels).to(where)
        run = None
        if out is not None:
            run = runs.Run.open(out, JOB, self._record(data))
        train.train(network, data, self.config, where, run)
        if self.config.calibrate:
            train.calibrate(network, data.validation, where)
        network.eval().requires_grad_(False)
        self._network, self._where = network, where
        self.n_labels, self.label_names, self.input_shape = data.n_labels, data.label_names, data.input_shape
        self.source = data.source
        if run is not None:
            self.save(run.path / FILE)
        return self

    def predict_proba(self, inputs: Inputs) -> Float[Tensor, "rows labels"]:
        """Predict every label's probability.

        Parameters
        ----------
        inputs
            A part of a data set, or an array or tensor of shape (rows, *input_shape).

        Returns
        -------
        Tensor
            Shape (rows, labels), float32, on the CPU.

        Raises
        ------
        InputError
            Before `fit`, or where the inputs have another shape.
        """
        network = self._fitted()
        return train.infer(network, self._split(inputs), self._where, lambda x: network.logits(x).sigmoid())

    def embed(self, inputs: Inputs) -> Float[Tensor, "rows features"]:
        """Compute the encoder's features, shape (rows, features); inputs and errors as in `predict_proba`."""
        network = self._fitted()
        return train.infer(network, self._split(inputs), self._where, network.encoder)

    def mixtures(self, inputs: Inputs) -> MixtureParameters:
        """Compute the images' mixtures, on the CPU.

        Parameters
        ----------
        inputs
            As in `predict_proba`.

        Returns
        -------
        MixtureParameters
            One mixture a row.

        Raises
        ------
        InputError
            As in `predict_proba`, for a model without a mixture head, and for one whose encoder was fine-tuned after
            the head had been trained.
        """
        network = self._fitted()
        if self.config.fine_tune:
            raise InputError("the encoder was fine-tuned after its mixture head", "a model trained without fine_tune")
        network.eval()
        with torch.inference_mode():
            found = [network.mixtures(batch) for batch in train.batches(self._split(inputs), self._where)]
        return MixtureParameters(*(tensor.cpu().clone() for tensor in MixtureParameters.cat(found)))

    def uncertainty(self, inputs: Inputs) -> Uncertainty:
        """Compute how unsure the images' mixtures are, between and within their components.

        Parameters
        ----------
        inputs
            As in `predict_proba`.

        Returns
        -------
        Uncertainty
            Shape (rows,) each.

        Raises
        ------
        InputError
            As in `mixtures`.
        """
        return uncertainty(self.mixtures(inputs))

    def evaluate(self, data: Split, **options: Any) -> metrics.Scores:
        """Measure predictions on a part of a data set.

        Parameters
        ----------
        data
            The part, such as ``data.test``.
        options
            As for `probmcl.metrics.evaluate`: threshold, absent, k, top_k_rule, bins.

        Returns
        -------
        Scores
            The scores.

        Raises
        ------
        InputError
            As `predict_proba` and `probmcl.metrics.evaluate`.
        """
        options.setdefault("k", min(3, data.labels.shape[1]))
        return metrics.evaluate(self.predict_proba(data), np.array(data.labels), **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, whole or not at all.

        Parameters
        ----------
        path
            A .safetensors file.

        Raises
        ------
        InputError
            Before `fit`.
        """
        network = self._fitted()
        meta = {
            "model": "probmcl",
            "encoder": self.encoder if isinstance(self.encoder, str) else _OWN,
            "width": self.width,
            "config": runs.to_json(self.config),
            "label_names": list(self.label_names),
            "input_shape": list(self.input_shape),
            "source": self.source,
        }
        checkpoint.save(path, network.state_dict(), meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, encoder: nn.Module | None = None, on: str = "auto") -> ProbMCL:
        """Read a model that `save` wrote, or the one of a run folder.

        Parameters
        ----------
        path
            The file, or the folder of a finished run.
        encoder
            The module, for a model whose encoder was one's own; its weights are in the file.
        on
            The device: auto, cpu, cuda, cuda:N or mps.

        Returns
        -------
        ProbMCL
            The model.

        Raises
        ------
        InputError
            Where the file is missing, damaged or no such model, or its encoder is not given.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE
            if not path.exists():
                raise InputError(f"{path.parent} holds no model", "the folder of a finished probmcl train")
        loaded = checkpoint.load(path, "torch")
        if loaded.meta.get("model") != "probmcl":
            raise InputError(f"{path} is no model of probmcl", "a file that ProbMCL.save wrote")
        if loaded.meta.get("encoder") == _OWN and encoder is None:
            raise InputError(f"{path} has an encoder that was {_OWN}", "that module, as encoder")
        with reading(path, "a file that ProbMCL.save wrote, and the encoder that was trained"):
            told = loaded.meta
            model = cls(encoder or told["encoder"], config=_config(told["config"]), width=told["width"])
            model.label_names, model.input_shape = tuple(map(str, told["label_names"])), tuple(told["input_shape"])
            model.n_labels, model.source = len(model.label_names), str(told["source"])
            if encoder is None:
                with torch.device("meta"):  # no memory yet: the settings may be anything
                    wanted = model._build(model.input_shape, model.n_labels).state_dict()
                if {n: a.shape for n, a in wanted.items()} != {n: a.shape for n, a in loaded.arrays.items()}:
                    raise InputError(f"{path} has weights that do not fit its settings", "what ProbMCL.save wrote")
            network = model._build(model.input_shape, model.n_labels)
            network.load_state_dict(loaded.arrays)
        model._where = device.pick(on)
        model._network = network.to(model._where).eval().requires_grad_(False)
        return model

    def inference(self) -> nn.Module:
        """Return encoder and classifier alone, as a module on the CPU that maps inputs to logits: what is deployed.

        Raises
        ------
        InputError
            Before `fit`.
        """
        import copy

        network = self._fitted()
        return nn.Sequential(copy.deepcopy(network.encoder), copy.deepcopy(network.classifier)).cpu().eval()

    def _build(self, input_shape: tuple[int, ...], n_labels: int) -> train.Network:
        with torch_seed(self.config.seed, "encoder"):
            encoder = (
                encoders.build(self.encoder, input_shape, width=self.width, weights=self.weights)
                if isinstance(self.encoder, str)
                else self.encoder
                if isinstance(self.encoder, Encoder)
                else encoders.wrap(self.encoder, input_shape)
            )
        return train.Network(encoder, n_labels, self.config)

    def _record(self, data: MultiLabelSet) -> dict[str, Any]:
        """Say what a run folder is for: settings, encoder and data."""
        inputs = [data.train.inputs] if isinstance(data.train, ArraySplit) else []
        return {
            **runs.to_json(self.config),
            "encoder": self.encoder if isinstance(self.encoder, str) else f"own {type(self.encoder).__qualname__}",
            "width": self.width,
            "weights": None if self.weights is None else str(self.weights),
            "data": data.source,
            "data_sha256": runs.fingerprint(*inputs, data.train.labels, data.validation.labels),
        }

    def _fitted(self) -> train.Network:
        if self._network is None:
            raise InputError("the model is not trained", "fit or load first")
        return self._network

    def _split(self, inputs: Inputs) -> Split:
        if isinstance(inputs, Split):
            return inputs
        array = np.asarray(inputs, dtype=np.float32)
        if array.shape[1:] != self.input_shape or not len(array):
            raise InputError(f"inputs have shape {array.shape}", f"(rows, {', '.join(map(str, self.input_shape))})")
        return ArraySplit(array, np.zeros((len(array), len(self.label_names)), dtype=np.uint8))


def _config(table: dict[str, Any]) -> Config:
    """Make the configuration again from its JSON form."""
    fields = {field.name for field in dataclasses.fields(Config)}
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in table.items() if name in fields
    }
    return Config(**{**known, "augmentation": Augmentation(**table["augmentation"])})
