"""A multi-label classifier with a mixture behind every image: fit, predict, uncertainty, save and load."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import (
    checkpoint,
    checks,
    device as devices,
    hub,
    loggers,
    networks,
    pixels,
    processes,
    runs,
    text,
    training,
)
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.seeding import torch_seed
from torch import Tensor, nn

from probmcl import encoders, metrics
from probmcl.data.augmentation import Augmentation
from probmcl.data.sets import ArraySplit, Inputs, JoinedSplit, MultiLabelSet, Split, checked_labels
from probmcl.data.sources import Source, Unlabelled, load as load_data, load_unlabelled
from probmcl.mixtures.parameters import MixtureParameters
from probmcl.reliability import embeddings
from probmcl.reliability.mixin import UncertaintyMixin
from probmcl.reliability.saved import Reliability
from probmcl.training.calibration import calibrate
from probmcl.training.config import Config, with_earlier_defaults
from probmcl.training.network import Network, batches, infer
from probmcl.training.stages import LOG_EVERY, Training

JOB = "probmcl train"
FILE = "model.safetensors"
_CUSTOM = "a custom module"
_CUSTOM_MARKS = (_CUSTOM, "a module of one's own")  # in saved files, the second by release 0.1


class ProbMCL(UncertaintyMixin):
    """A multi-label classifier, trained by ProbMCL (arXiv 2401.01448) or one of its rivals.

    Two views of every image pass through the encoder and a mixture density head, and mixtures are drawn together where
    label sets overlap. A linear classifier learns on the encoder's features, together with it (``mode="joint"``) or in
    a second stage in which the encoder is frozen ("two_stage", the default for pre-trained weights). The head is kept
    for `mixtures` only: a prediction costs the encoder and one linear layer.

    ``encoder`` is a module that maps inputs to features, or a name; ``width`` and ``weights`` are for named ones, see
    `probmcl.build`. ``normalise_images`` is what the encoder does first: imagenet, none or auto, which takes the
    normalisation that a pre-trained network expects. ``n_labels`` is by default that of the data.

    Examples
    --------
    >>> from probmcl import HeadConfig
    >>> from probmcl.scenes import compose, digits
    >>> data = compose(digits(), sizes=(64, 32, 32))
    >>> config = Config(epochs=1, classifier_epochs=1, batch_size=32, head=HeadConfig(dim=8, hidden=(16,)))
    >>> model = ProbMCL("convnet", 10, config, width=4).fit(data)
    >>> model.predict_proba(data.test).shape, model.uncertainty(data.test, kind="entropy").shape
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
        normalise_images: encoders.Normalise | networks.Normalisation = "auto",
    ) -> None:
        checks.check("n_labels", n_labels, checks.Count | None)
        self.encoder, self.n_labels = encoder, n_labels
        self.config = (config or Config()).resolved(pretrained=weights is not None)
        self.width, self.weights = width, None if weights is None else Path(weights)
        self.normalise_images = normalise_images
        self.label_names: tuple[str, ...] = ()
        self.input_shape: tuple[int, ...] = ()
        self.source = ""
        self.reliability = Reliability()
        self._network: Network | None = None
        self._device = torch.device("cpu")

    def fit(
        self,
        data: MultiLabelSet | Source,
        out: str | os.PathLike[str] | None = None,
        *,
        unlabelled: Unlabelled | None = None,
        log: Sequence[loggers.Name | loggers.Logger] = (),
    ) -> ProbMCL:
        """Train and return this object.

        ``data`` is a set, or what `probmcl.load` accepts; its validation part is used for the calibration. Labels may
        be -1 where they are not known. ``unlabelled`` are more training images, without labels: an array or tensor, a
        folder of image files, or what `probmcl.load` accepts, of which the training part is used. ``out`` is a
        run folder for checkpoints, metrics.jsonl and the model; an unfinished run with the same settings and data
        resumes bit-identically. After Ctrl-C or SIGTERM a KeyboardInterrupt is raised once the step is done and saved.
        ``log`` names trackers that follow the run: tensorboard, wandb, mlflow, or objects of their three methods.

        Under torchrun every process calls this alike. They divide every batch among them and end with the same model,
        that of one process with the whole batches up to rounding; the first one writes the run folder.
        """
        data = load_data(data)
        if unlabelled is not None:
            data = data.with_unlabelled(load_unlabelled(unlabelled, data.input_shape))
        if self.n_labels not in (None, data.n_labels):
            raise InputError(f"the data have {data.n_labels} labels", f"n_labels, {self.n_labels}")
        required = self.config.require_labels
        labels = checked_labels(data.train.labels, data.n_labels, f"{data.source}, train", at_least_one=required)
        if not (labels > 0).any():
            raise InputError(f"{data.source}: no training row has a label", "positives to learn from")
        with processes.join(self.config.device) as joined:
            device = joined.device
            network = self._build(data.input_shape, data.n_labels).to(device)
            run = training.run(
                Training(network, data, self.config, device, joined),
                name=JOB,
                out=out,
                record=None if out is None else _as_earlier(self._record(data, network.encoder), out),
                settings=Config,
                log=log,
                cadence=training.Cadence(log=LOG_EVERY, checkpoint=self.config.checkpoint_every),
                processes=joined,
                label=self.config.method,
            )
            if self.config.calibrate:
                calibrate(network, data.validation, device)
        network.eval().requires_grad_(False)
        self._network, self._device = network, device
        self.n_labels, self.label_names, self.input_shape = data.n_labels, data.label_names, data.input_shape
        self.source = data.source
        self.reliability = Reliability()
        self.fit_distance(data.train)
        if run is not None:
            self.reliability = self.reliability.with_sets_of(run.path / FILE, network.state_dict())
            self.save(run.path / FILE)
        return self

    def predict_proba(self, inputs: Inputs) -> Float[Tensor, "rows labels"]:
        """Predict the probability of every label, float32 on the CPU.

        ``inputs`` is a part of a data set, or an array or tensor of shape (rows, *input_shape); images are uint8 in
        0..255 or floats in [0, 1].
        """
        network = self._fitted()
        return infer(network, self._split(inputs), self._device, lambda x: network.logits(x).sigmoid())

    def embed(self, inputs: Inputs) -> Float[Tensor, "rows features"]:
        """Compute the encoder's features; inputs as in `predict_proba`."""
        network = self._fitted()
        return infer(network, self._split(inputs), self._device, network.encoder)

    def mixtures(self, inputs: Inputs) -> MixtureParameters:
        """Compute the images' mixtures, on the CPU; inputs as in `predict_proba`.

        A model without a mixture head is refused, and so is one whose encoder was fine-tuned after its head.
        """
        network = self._fitted()
        if self.config.fine_tune:
            raise InputError("the encoder was fine-tuned after its mixture head", "a model trained without fine_tune")
        network.eval()
        with torch.inference_mode():
            mixtures = [network.mixtures(batch) for batch in batches(self._split(inputs), self._device)]
        return MixtureParameters(*(tensor.cpu().clone() for tensor in MixtureParameters.cat(mixtures)))

    def fit_distance(self, train: Split) -> None:
        """Fit the Gaussians of the kind "distance" to training images; they are saved with the model.

        `fit` does so at its end. It is for models of earlier releases, and for other images. Of more than 10,000
        images a fixed draw is used. Features of more than 4096 dimensions have no Gaussians.
        """
        network = self._fitted()
        gaussians = None
        if network.encoder.out_features <= embeddings.MOST_DIMS:
            rows = embeddings.chosen_rows(np.array(train.labels), self.config.seed)
            if len(rows):
                features = infer(network, train, self._device, network.encoder, rows).numpy()
                gaussians = embeddings.LabelGaussians.fit(features, np.array(train.labels)[rows])
        self.reliability = Reliability(gaussians, self.reliability.sets)

    def evaluate(self, data: Split, **options: Any) -> metrics.Scores:
        """Measure predictions on a part of a data set, with the options of `probmcl.evaluate`."""
        options.setdefault("k", min(3, data.labels.shape[1]))
        return metrics.evaluate(self.predict_proba(data), np.array(data.labels), **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one .safetensors file, completely or not at all."""
        self._write(path, self.source)

    def _write(self, path: str | os.PathLike[str], source: str) -> None:
        network = self._fitted()
        meta = {
            "model": "probmcl",
            "encoder": self.encoder if isinstance(self.encoder, str) else _CUSTOM,
            "width": self.width,
            "config": runs.to_json(self.config.as_flat()),
            "label_names": list(self.label_names),
            "input_shape": list(self.input_shape),
            "normalisation": network.encoder.normalisation,
            "preprocessing": "images scaled and cropped to input_shape, values in [0, 1]; features as they were given",
            "source": source,
            "reliability": self.reliability.meta(),
        }
        checkpoint.save(path, network.state_dict() | self.reliability.arrays(), meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, encoder: nn.Module | None = None, on: str = "auto") -> ProbMCL:
        """Read a model that `save` wrote.

        ``path`` is the file, or the folder of a finished run. A model with a custom encoder needs the module; its
        weights are in the file. ``on`` is the device: auto, cpu, cuda, cuda:N or mps.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE
            if not path.exists():
                raise InputError(f"{path.parent} holds no model", "the folder of a finished probmcl train")
        loaded = checkpoint.load(path, "torch")
        meta = loaded.meta
        if meta.get("model") != "probmcl":
            raise InputError(f"{path} is no model of probmcl", "a file that ProbMCL.save wrote")
        if meta.get("encoder") in _CUSTOM_MARKS and encoder is None:
            raise InputError(f"{path} has {_CUSTOM} as its encoder", "that module, as encoder")
        with reading(
            path, "a file that ProbMCL.save wrote, and the encoder that was trained", *STRUCTURE, RuntimeError
        ):
            model = cls(encoder or meta["encoder"], config=_config(meta["config"]), width=meta["width"])
            if not isinstance(encoder, encoders.Encoder):
                model.normalise_images = meta.get("normalisation") or "none"
            model.label_names, model.input_shape = tuple(map(str, meta["label_names"])), tuple(meta["input_shape"])
            model.n_labels, model.source = len(model.label_names), str(meta["source"])
            model.reliability = Reliability.read(loaded.arrays, meta.get("reliability", {}), model.n_labels)
            arrays = Reliability.of_network(loaded.arrays)
            if encoder is None:
                with torch.device("meta"):  # no memory yet: the settings are not trusted
                    expected = model._build(model.input_shape, model.n_labels).state_dict()
                if {n: a.shape for n, a in expected.items()} != {n: a.shape for n, a in arrays.items()}:
                    raise InputError(f"{path} has weights that do not fit its settings", "what ProbMCL.save wrote")
            network = model._build(model.input_shape, model.n_labels)
            network.load_state_dict(arrays)
        model._device = devices.pick(on)
        model._network = network.to(model._device).eval().requires_grad_(False)
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        encoder: nn.Module | None = None,
        revision: str | None = None,
        on: str = "auto",
    ) -> ProbMCL:
        """Read an exported folder, a finished run, or the repository OWNER/NAME of the Hub (extra ``hub``).

        ``encoder`` and ``on`` are as for `load`; ``revision`` is a branch, tag or commit.
        """
        return cls.load(hub.local_folder(name_or_path, revision=revision), encoder=encoder, on=on)

    def export_hub(
        self, path: str | os.PathLike[str], *, license: str = "unknown", scores: Mapping[str, float] | None = None
    ) -> None:
        """Write a new folder for the Hugging Face Hub: a model card and model.safetensors, for `from_pretrained`.

        ``license`` is an identifier of the Hub, such as mit. ``scores`` come into the card. Where the data lay on this
        machine is left out.
        """
        self._fitted()
        kind = ["image-classification"] if len(self.input_shape) == 3 else []
        head: dict[str, Any] = {"library_name": "probmcl", "license": license}
        head |= {"pipeline_tag": "image-classification"} if kind else {}
        head["tags"] = ["probmcl", "multi-label", *kind]
        with hub.new_folder(path) as folder:
            self._write(folder / FILE, "")
            (folder / "README.md").write_text(hub.card(head, self._card(scores or {})), encoding="utf-8")

    def _card(self, scores: Mapping[str, float]) -> str:
        encoder = self.encoder if isinstance(self.encoder, str) else type(self.encoder).__name__
        shape = " x ".join(map(str, self.input_shape))
        lines = [
            "# A multi-label classifier",
            f"Trained with the method {self.config.method} on inputs of shape {shape}; images have values in [0, 1]. "
            f"The encoder is {text.markdown(encoder)}.",
            f"{len(self.label_names)} labels: " + ", ".join(text.markdown(name) for name in self.label_names),
        ]
        if scores:
            lines.append(text.markdown_table(("score", "value"), [(name, f"{v:.4g}") for name, v in scores.items()]))
        lines.append(
            "```python\nfrom probmcl import ProbMCL\n\n"
            'model = ProbMCL.from_pretrained("OWNER/NAME")  # or this folder\n'
            "probabilities = model.predict_proba(images)  # (rows, labels)\n```"
        )
        return "\n\n".join(lines)

    @property
    def loaded_weights(self) -> networks.LoadedWeights | None:
        """What `fit` loaded from the file of pre-trained weights, if anything."""
        return self._fitted().encoder.loaded

    def inference(self) -> nn.Module:
        """Return what is deployed: a copy of encoder and classifier on the CPU that maps inputs to logits."""
        network = self._fitted()
        return nn.Sequential(copy.deepcopy(network.encoder), copy.deepcopy(network.classifier)).cpu().eval()

    def _build(self, input_shape: tuple[int, ...], n_labels: int) -> Network:
        with torch_seed(self.config.seed, "encoder"):
            if isinstance(self.encoder, str):
                encoder = encoders.build(
                    self.encoder,
                    input_shape,
                    width=self.width,
                    weights=self.weights,
                    normalise_images=self.normalise_images,
                )
            elif isinstance(self.encoder, encoders.Encoder):
                if self.normalise_images != "auto":
                    raise InputError(
                        f"normalise_images is {self.normalise_images!r} for an Encoder", "auto: it has its own"
                    )
                encoder = self.encoder
            else:
                encoder = encoders.wrap(self.encoder, input_shape, self.normalise_images)
        return Network(encoder, n_labels, self.config)

    def _record(self, data: MultiLabelSet, encoder: encoders.Encoder) -> dict[str, Any]:
        """Return what identifies a run: settings, encoder and data."""
        parts = data.train.parts if isinstance(data.train, JoinedSplit) else (data.train,)
        inputs = [part.inputs for part in parts if isinstance(part, ArraySplit)]
        return {
            **self.config.as_flat(),
            "encoder": self.encoder if isinstance(self.encoder, str) else f"own {type(self.encoder).__qualname__}",
            "width": self.width,
            "weights": None if self.weights is None else str(self.weights),
            **({} if encoder.normalisation is None else {"normalisation": encoder.normalisation}),
            "data": data.source,
            "data_sha256": pixels.fingerprint(*inputs, data.train.labels, data.validation.labels),
        }

    def _fitted(self) -> Network:
        if self._network is None:
            raise InputError("the model is not trained", "fit or load first")
        return self._network

    def _split(self, inputs: Inputs) -> Split:
        if isinstance(inputs, Split):
            return inputs
        array = np.asarray(inputs.detach().cpu() if isinstance(inputs, Tensor) else inputs)
        if array.dtype != np.uint8 or array.ndim != 4:  # images of bytes are converted batch by batch
            array = array.astype(np.float32, copy=False)
        if array.shape[1:] != self.input_shape or not len(array):
            raise InputError(f"inputs have shape {array.shape}", f"(rows, {', '.join(map(str, self.input_shape))})")
        return ArraySplit(array, np.zeros((len(array), len(self.label_names)), dtype=np.uint8))


def _as_earlier(record: dict[str, Any], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Leave out settings that the run in this folder, of an earlier release, did not have but trained by."""
    if not (Path(out) / "config.json").is_file():
        return record
    old = runs.Run.read(out).config
    defaults = with_earlier_defaults(old)
    known, off = old.get("augmentation") or {}, vars(Augmentation())  # what is new there changes nothing by default
    kept = {name: v for name, v in record["augmentation"].items() if name in known or v != off[name]}
    record |= {"augmentation": kept}
    return {name: v for name, v in record.items() if name in old or name not in defaults or defaults[name] != v}


def _config(table: dict[str, Any]) -> Config:
    """Rebuild the settings from their JSON form, without names that this release does not know."""
    table = with_earlier_defaults(table)
    names = Config().as_flat().keys() & table.keys()
    known = {name: tuple(table[name]) if isinstance(table[name], list) else table[name] for name in names}
    return Config.flat(**{**known, "augmentation": Augmentation(**table["augmentation"])})
