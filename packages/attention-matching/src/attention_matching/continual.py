"""Class-incremental learning: classes arrive step by step, and a buffer of a few images each is all that is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sextet_common import device, figures, files, progress, runs, seeding
from sextet_common.data import ImageSet
from sextet_common.errors import InputError
from torch import Tensor

from attention_matching.augment import SiameseAugmentation, augmentation_for
from attention_matching.distill import DistillConfig
from attention_matching.evaluate import EvaluateConfig
from attention_matching.networks import build
from attention_matching.preprocess import Preprocessing
from attention_matching.small_sets import Method, check_methods, data_sha256, small_set
from attention_matching.training import accuracy, train_networks

JOB = "attention-matching continual"

Key = tuple[str, int, int]  # buffer, order, step


@dataclasses.dataclass(frozen=True)
class ContinualConfig:
    """How the classes arrive, what is kept of them, and how a network is trained on that.

    The protocol is GDumb's, as the distillation papers use it: five steps or ten, 20 images
    per class, five orders. *Ours*: the small defaults, which suit digits.
    """

    steps: int = 5
    """In how many steps the classes arrive; where they cannot be shared out equally, early steps get one more."""
    ipc: int = 1
    """Images that the buffer keeps of each class."""
    methods: tuple[Method, ...] = ("random", "herding", "dm", "datadam", "atom")
    """Where the buffer's images come from: each is a buffer of its own."""
    orders: int = 3
    """Orders of arrival, each drawn from the seed."""
    seed: int = 0
    """The seed of all random numbers."""
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    """How dm, datadam and atom distill; its method, ipc and seed are set for each buffer."""
    training: EvaluateConfig = dataclasses.field(default_factory=lambda: EvaluateConfig(networks=1, epochs=300))
    """How fresh networks are trained on the buffer; its seed is set for each order and step."""

    def __post_init__(self) -> None:
        for name in ("steps", "ipc", "orders"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "a whole number >= 1")
        check_methods(self.methods)
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", "a whole number >= 0")


@dataclasses.dataclass(frozen=True, eq=False)
class ContinualResult:
    """Test accuracies on all classes seen so far, after each step.

    Parameters
    ----------
    accuracies
        For each buffer an array in [0, 1] of shape (orders, steps, networks).
    classes_seen
        How many classes have arrived after each step.
    orders
        The classes' names in their orders of arrival.

    Examples
    --------
    >>> rising = np.array([[[1.0], [0.9]], [[0.8], [0.7]]])
    >>> result = ContinualResult({"random": rising}, (1, 2), (("a", "b"), ("b", "a")))
    >>> print(result.to_markdown())
    | buffer | 1 class | 2 classes | average over steps |
    | --- | --- | --- | --- |
    | random | 90.0 ± 14.1 | 80.0 ± 14.1 | 85.0 ± 14.1 |
    """

    accuracies: Mapping[str, Float[np.ndarray, "orders steps networks"]]
    classes_seen: tuple[int, ...]
    orders: tuple[tuple[str, ...], ...]

    def mean(self, method: str) -> Float[np.ndarray, " steps"]:
        """Return a buffer's mean accuracy after each step, over orders and networks.

        Parameters
        ----------
        method
            Which buffer.

        Returns
        -------
        numpy.ndarray
            Shape (steps,).
        """
        return np.asarray(self.accuracies[method].mean(axis=(0, 2)))

    def std(self, method: str) -> Float[np.ndarray, " steps"]:
        """Return the sample standard deviation of a buffer's accuracy over the orders; 0 for one order.

        Parameters
        ----------
        method
            Which buffer.

        Returns
        -------
        numpy.ndarray
            Shape (steps,); each order counts with its mean over networks.
        """
        return _std(self.accuracies[method].mean(axis=2))

    def to_markdown(self) -> str:
        """Return a table: a row per buffer, mean and std over orders in percent.

        Where ``random`` is among the buffers, a last column has the gain over it at the last
        step: the mean and std of the differences, order by order.

        Returns
        -------
        str
            The table, without a line break at its end.
        """
        seen = [f"{n} class{'es' if n > 1 else ''}" for n in self.classes_seen]
        compared = "random" in self.accuracies and len(self.accuracies) > 1
        rows = [["buffer", *seen, "average over steps", *(["gain over random at the end"] if compared else [])]]
        rows.append(["---"] * len(rows[0]))
        for method, values in self.accuracies.items():
            by_order = values.mean(axis=2)
            columns = [*by_order.T, by_order.mean(axis=1)]
            row = [method, *(f"{100 * c.mean():.1f} ± {100 * _std(c):.1f}" for c in columns)]
            if compared:
                gain = by_order[:, -1] - self.accuracies["random"].mean(axis=2)[:, -1]
                row.append("" if method == "random" else f"{100 * gain.mean():+.1f} ± {100 * _std(gain):.1f}")
            rows.append(row)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Draw accuracy against classes seen: a curve per buffer, with one std over orders around it.

        Parameters
        ----------
        path
            The PNG file.
        """
        n_orders = len(self.orders)
        with figures.figure_file(path, (6.4, 3.8)) as figure:
            axis = figure.subplots()
            for method, colour in zip(self.accuracies, figures.COLOURS, strict=True):
                mean, std = 100 * self.mean(method), 100 * self.std(method)
                axis.plot(self.classes_seen, mean, color=colour, label=method, marker="o", markersize=3, linewidth=1.6)
                axis.fill_between(self.classes_seen, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)
            axis.set_xticks(self.classes_seen)
            axis.set_xlabel("classes seen")
            axis.set_ylabel("test accuracy on the classes seen (%)")
            axis.legend(title=f"buffer, ± std of {n_orders} orders" if n_orders > 1 else "buffer", frameon=False)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values.

        Returns
        -------
        dict
            Orders, classes seen and every accuracy.
        """
        return {
            "classes_seen": list(self.classes_seen),
            "orders": [list(order) for order in self.orders],
            "accuracies": {method: values.tolist() for method, values in self.accuracies.items()},
        }


def continual(
    data: ImageSet, config: ContinualConfig | None = None, out: str | os.PathLike[str] | None = None
) -> ContinualResult:
    """Measure what buffers of different images are worth when classes arrive step by step.

    At each step every buffer gets a few images of each new class, made from the new classes'
    training images alone; fresh networks, whose heads cover the classes seen so far, are
    trained on the whole buffer and tested on all test images of those classes. Pixels are
    preprocessed by the first step's statistics, since nothing else is known by then.

    Every random number is keyed by the order and the step and not by the buffers that are
    compared: they see the same classes, the same initial networks and the same batches.

    Parameters
    ----------
    data
        The images.
    config
        The settings.
    out
        A run folder, for the accuracies one by one (metrics.jsonl), the distillations, the
        result (continual.json) and its picture (continual.png). A stopped or killed run is
        gone on with, to the same numbers; a kill loses the training at hand.

    Returns
    -------
    ContinualResult
        The accuracies.

    Raises
    ------
    InputError
        Where there are more steps than classes, a class has no test image or fewer training
        images than ``ipc``, or the folder holds something else.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the training at hand is done and logged.

    References
    ----------
    GDumb (ECCV 2020): greedy sampler, dumb learner. DSA (arXiv 2102.08259) and DM
    (arXiv 2110.04181): distilled images in its buffer.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> quick = EvaluateConfig(networks=1, epochs=2, width=8)
    >>> result = continual(load("digits"), ContinualConfig(methods=("random",), orders=1, training=quick))
    >>> result.classes_seen, result.accuracies["random"].shape
    ((2, 4, 6, 8, 10), (1, 5, 1))
    """
    config = _resolved(config or ContinualConfig(), data)
    arrivals = [_arrivals(config, data.n_classes, number) for number in range(config.orders)]
    run = None
    if out is not None:
        run = runs.Run.open(out, JOB, {"data": data.source, "data_sha256": data_sha256(data), **runs.to_json(config)})
        run.rewind(sys.maxsize)  # what a kill tore from the log's last line would spoil the next
    done = _logged(run, config.training.networks)
    for number, arrival in enumerate(arrivals):
        _one_order(data, config, number, arrival, run, done)
    result = ContinualResult(
        {
            m: np.array([[done[m, o, s] for s in range(config.steps)] for o in range(config.orders)])
            for m in config.methods
        },
        tuple(np.cumsum([len(new) for new in arrivals[0]]).tolist()),
        tuple(tuple(data.classes[k] for new in arrival for k in new) for arrival in arrivals),
    )
    if run is not None:
        report = {**run.config, "machine": device.describe(), **result.to_json()}
        files.write_text(run.path / "continual.json", json.dumps(report, indent=2) + "\n")
        result.save_picture(run.path / "continual.png")
    return result


def class_order(n_classes: int, seed: int, number: int) -> list[int]:
    """Draw one order in which the classes arrive.

    Parameters
    ----------
    n_classes
        How many classes there are.
    seed
        The experiment's seed.
    number
        Which order.

    Returns
    -------
    list of int
        The class numbers.

    Examples
    --------
    >>> sorted(class_order(4, seed=0, number=2))
    [0, 1, 2, 3]
    """
    order: list[int] = seeding.generator(seed, "class order", number).permutation(n_classes).tolist()
    return order


def only_classes(data: ImageSet, chosen: Sequence[int]) -> ImageSet:
    """Return the images of some classes, which become the classes 0, 1, ... in the order given.

    Parameters
    ----------
    data
        The images.
    chosen
        Class numbers, each once.

    Returns
    -------
    ImageSet
        Their training and test images; the statistics are those of these training images.

    Examples
    --------
    >>> from sextet_common.data import load
    >>> few = only_classes(load("digits"), [7, 3])
    >>> few.classes, few.n_classes, len(few.test_images)
    (('7', '3'), 2, 73)
    """
    number = np.full(data.n_classes, -1)
    number[list(chosen)] = np.arange(len(chosen))
    arrays = []
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        here = number[labels] >= 0
        arrays += [images[here], number[labels[here]]]
    names = tuple(data.classes[k] for k in chosen)
    return ImageSet.of(*arrays, names, source=f"{data.source}, classes {', '.join(names)}")


def _resolved(config: ContinualConfig, data: ImageSet) -> ContinualConfig:
    """Check the settings against the data, and choose the augmentation by all classes' names.

    A step's classes alone would not show that the images are digits, which must not be mirrored.
    """
    if config.steps > data.n_classes:
        raise InputError(f"steps is {config.steps} for {data.n_classes} classes", "at least one class per step")
    for labels, least, told in (
        (data.train_labels, config.ipc, f"at least ipc = {config.ipc} training images"),
        (data.test_labels, 1, "at least 1 test image"),
    ):
        counts = np.bincount(labels, minlength=data.n_classes)
        if counts.min() < least:
            raise InputError(f"class {data.classes[counts.argmin()]!r} has {counts.min()}", told)

    operations = augmentation_for(data.classes, config.distill.augment).operations
    tested = augmentation_for(data.classes, config.training.augment).operations
    return dataclasses.replace(
        config,
        distill=dataclasses.replace(config.distill, augment=operations),
        training=dataclasses.replace(config.training, augment=tested),
    )


def _arrivals(config: ContinualConfig, n_classes: int, number: int) -> list[list[int]]:
    """Return the classes that arrive at each step of an order."""
    return [new.tolist() for new in np.array_split(class_order(n_classes, config.seed, number), config.steps)]


def _logged(run: runs.Run | None, networks: int) -> dict[Key, list[float]]:
    """Return the accuracies that an interrupted run has logged."""
    rows = [] if run is None else run.metrics()
    return {
        (row["method"], row["order"], row["arrival"]): [row[f"accuracy_{n}"] for n in range(networks)] for row in rows
    }


def _one_order(
    data: ImageSet,
    config: ContinualConfig,
    number: int,
    arrival: list[list[int]],
    run: runs.Run | None,
    done: dict[Key, list[float]],
) -> None:
    """Fill in what is not done of an order of arrival."""
    left = [(m, number, step) for step in range(config.steps) for m in config.methods if (m, number, step) not in done]
    if not left:
        return
    preprocessing = Preprocessing.fit(only_classes(data, arrival[0]))
    buffers = {}
    for method in dict.fromkeys(method for method, _, _ in left):
        buffers[method] = _buffer(data, config, method, number, arrival, preprocessing, run)
    total = config.steps * len(config.methods)
    told = f"continual, order {number + 1} of {config.orders}"
    with progress.bar(told, total, done=total - len(left)) as bar, runs.interruptible() as stopping:
        for method, _, step in left:
            began = time.perf_counter()
            inputs = torch.cat(buffers[method][: step + 1])
            seen = [label for new in arrival[: step + 1] for label in new]
            accuracies = _train_and_test(data, config, inputs, seen, preprocessing, (number, step))
            done[method, number, step] = accuracies
            if run is not None:
                values: dict[str, float] = {f"accuracy_{n}": value for n, value in enumerate(accuracies)}
                seconds = round(time.perf_counter() - began, 3)
                run.log(len(done), method=method, order=number, arrival=step, seconds=seconds, **values)
            bar.advance(accuracy=float(np.mean(accuracies)))
            if stopping():
                break


def _buffer(
    data: ImageSet,
    config: ContinualConfig,
    method: Method,
    number: int,
    arrival: list[list[int]],
    preprocessing: Preprocessing,
    run: runs.Run | None,
) -> list[Tensor]:
    """Make what a buffer gets at each step, as network inputs, from the new classes' images alone."""
    parts = []
    for step, new in enumerate(arrival):
        folder = None if run is None else run.path / "buffers" / method / f"order-{number}-step-{step}"
        seed = seeding.derive(config.seed, "buffer", number, step)
        part = small_set(method, only_classes(data, new), config.ipc, seed, config.distill, folder)
        parts.append(preprocessing(part.preprocessing.invert(part.images)))
    return parts


def _train_and_test(
    data: ImageSet,
    config: ContinualConfig,
    inputs: Tensor,
    seen: list[int],
    preprocessing: Preprocessing,
    key: tuple[int, int],
) -> list[float]:
    """Return the test accuracies of fresh networks that know the classes seen, in their order of arrival."""
    training = dataclasses.replace(config.training, seed=seeding.derive(config.seed, "training", *key))
    networks = train_networks(
        lambda n: build(
            "convnet", data.image_shape, len(seen), width=training.width, depth=training.depth, norm=training.norm
        ),
        range(training.networks),
        inputs,
        torch.arange(len(seen)).repeat_interleave(config.ipc),
        SiameseAugmentation(training.augment or ()),
        training,
    )
    known = only_classes(data, seen)
    tests = preprocessing(known.test_images), torch.tensor(known.test_labels)
    return [accuracy(network, *tests, training.batch) for network in networks]


def _std(values: np.ndarray) -> Any:
    """Return the sample standard deviation over the orders, 0 for one order."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])
