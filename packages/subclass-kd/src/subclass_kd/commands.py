"""The commands of `subclass-kd`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import tyro
from sextet_common import files, hub, loggers
from sextet_common.device import pick
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.options import Advanced
from torch import nn

from subclass_kd.bits import label_bits, mutual_label_bits, soft_label_bits
from subclass_kd.classifier import Classifier
from subclass_kd.clinical.files import save_clinical
from subclass_kd.clinical.report import ClinicalConfig, clinical_report, percent
from subclass_kd.compare import compare as compare_methods, objective_of
from subclass_kd.comparison import Comparison, Method, bits_beside_gain
from subclass_kd.data import SubclassSet
from subclass_kd.deployment import Output, export as export_network
from subclass_kd.discover import Clustering, choose_layer
from subclass_kd.inference import evaluate, predict
from subclass_kd.layers import layer_features
from subclass_kd.networks import build
from subclass_kd.options import CompareOptions, Data, Device, Log, Rest, RunData, TrainOptions
from subclass_kd.plotting import save_bits, save_confusion, save_gains
from subclass_kd.saved import RECIPE, WEIGHTS, Recipe, rebuild
from subclass_kd.tables import save_table
from subclass_kd.teacher import TeacherLogits
from subclass_kd.timing import latency as time_network
from subclass_kd.train import distill as distill_student, train_teacher


def compare(out: Path, config: CompareOptions, data: Data, log: Log = ()) -> None:
    """Compare students alone, with conventional and with subclass distillation.

    An interrupted comparison resumes with the same command, and continues with more seeds.

    Parameters
    ----------
    out
        Folder for comparison.json, the figure and a run folder per network.
    config
        What is compared.
    data
        The images.
    """
    loggers.open(log)  # refuses a missing extra before the work
    comparison = compare_methods(data.read(), config, out, log=log)
    print(comparison.table())
    for name, cost in comparison.cost.items():
        sizes = f"{cost['parameters']:,.0f} parameters, {cost['multiply_adds']:,.0f} multiply-adds"
        print(f"{name}: {sizes}, {1e3 * cost['seconds']:.2f} ms an image")
    for bits_read in comparison.bits:
        print(bits_read)
    if "alone" in comparison.scores and len(comparison.scores) > 2:
        print(save_gains(comparison, out / "gains.png", title=f"{data.data}: what a teacher adds"))


def teacher(
    out: Path,
    config: TrainOptions,
    data: Data,
    network: str = "convnet-deep",
    width: Advanced[int | None] = None,
    weights: Path | None = None,
    share: float = 1.0,
    rest: Rest = "unlabelled",
    log: Log = (),
) -> None:
    """Train a teacher on the subclasses and save its logits on every view of every training image.

    Parameters
    ----------
    out
        Run folder; the logits are in its folder logits.
    config
        How to train.
    data
        The images.
    network
        convnet, convnet-deep, or a network of torchvision or timm.
    width
        Width of convnet or convnet-deep.
    weights
        Local file of weights for all layers but the last.
    share
        Share of the training labels that are used, drawn by the seed, at least one of every subclass.
    rest
        What the other images are: unlabelled, or class, without a subclass.
    """
    loggers.open(log)
    images = _with_share(data.read(), share, rest, config.seed)
    outputs = images.hierarchy.n_subclasses
    untrained = build(network, images.input_shape, outputs, width=width, weights=weights, seed=config.seed)
    trained = train_teacher(untrained, images, config, out, log=log)
    _recipe(data, network, width).write(out)
    TeacherLogits.compute(trained, images.train, config.views, out / "logits", outputs=outputs)
    _report_scores(trained, images, out)


def distill(
    out: Path,
    config: TrainOptions,
    data: RunData,
    teacher: Path | None = None,
    method: Literal["alone", "alone-subclass", "kd", "dkd", "skd"] = "skd",
    network: str = "convnet",
    width: Advanced[int | None] = None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    share: float = 1.0,
    rest: Rest = "unlabelled",
    log: Log = (),
) -> None:
    """Train a student from a teacher's saved logits, from a teacher of the Hub, or alone.

    Parameters
    ----------
    out
        Run folder.
    config
        How to train; the views must be those of a teacher's saved logits.
    data
        The images.
    teacher
        Run folder of a teacher, or an exported folder or OWNER/NAME of the Hub, which then runs on every batch.
    method
        alone, alone-subclass, kd, dkd or skd.
    network
        convnet, convnet-deep, or a network of torchvision or timm.
    width
        Width of convnet or convnet-deep.
    temperature, alpha
        Temperature and share of the soft term.
    share
        Share of the training labels that are used, drawn by the seed, at least one of every subclass.
    rest
        What the other images are: unlabelled, or class, without a subclass.
    """
    loggers.open(log)
    shared = None if teacher is None else _shared(teacher)
    options = data.of(teacher if shared is None else shared)
    images = _with_share(options.read(), share, rest, config.seed)
    student = build(network, images.input_shape, images.hierarchy.n_subclasses, width=width, seed=config.seed)
    objective = objective_of(method, images, temperature, alpha)
    logits = None if teacher is None else teacher / "logits"
    source = rebuild(shared, images) if shared is not None else logits
    trained = distill_student(source, student, images, objective, config, out, log=log)
    _recipe(options, network, width).write(out)
    _report_scores(trained, images, out)


def bits(run: tyro.conf.Positional[Path] | None = None, /, *, data: RunData, temperature: float = 4.0) -> None:
    """Print the label bits of the data, and of a teacher if one is given.

    Parameters
    ----------
    run
        Run folder of a teacher, an exported folder, or OWNER/NAME of the Hub.
    data
        The images.
    temperature
        A second temperature besides 1.
    """
    run = None if run is None else _shared(run) or run
    images = data.of(run).read()
    print(label_bits(images.train.labels, images.hierarchy))
    if run is not None:
        logits = predict(rebuild(run, images), images.train)
        for value in dict.fromkeys((1.0, temperature)):
            print(f"T = {value:g}: {soft_label_bits(logits, images.hierarchy, value)}")
            print(f"T = {value:g}: {mutual_label_bits(logits, images.hierarchy, value)}")


def discover(
    run: tyro.conf.Positional[Path],
    /,
    *,
    data: RunData,
    out: Path | None = None,
    least: int = 2,
    most: int = 6,
    method: Clustering = "spectral",
    layer: str | None = None,
    seed: int = 0,
) -> None:
    """Cluster the features of a layer of a trained network into subclasses of each class, and write them as a table.

    Parameters
    ----------
    run
        Run folder of a network, an exported folder, or OWNER/NAME of the Hub.
    data
        The images.
    out
        The CSV table, one row per training image; by default discovered.csv in the run folder.
    least, most
        Bounds of the number of subclasses per class, between which the silhouette chooses.
    method
        kmeans, gmm or spectral.
    layer
        pixels, a layer by its height and width such as 8x8, or last; by default the one whose clusters agree most with
        those of the other layers.
    seed
        Seed of the clustering.
    """
    run = _shared(run) or run
    images = data.of(run).read()
    images = dataclasses.replace(images, train=images.train.rows(images.train.is_labelled.nonzero()[0]))
    names, classes = images.hierarchy.class_names, images.hierarchy.class_labels(images.train.labels)
    layers = layer_features(rebuild(run, images), images.train)
    if layer is not None and layer not in layers:
        raise InputError(f"layer {layer!r}", f"one of {', '.join(layers)}")
    chosen = layers if layer is None else {layer: layers[layer]}
    choice = choose_layer(chosen, classes, (least, most), method, class_names=names, seed=seed)
    clusters = choice.discovered
    path = out or run / "discovered.csv"
    tree = clusters.hierarchy
    others = tree.class_only(images.hierarchy.class_labels(images.validation.labels))
    save_table(images.with_subclasses(clusters.subclass_labels, others, tree), path, parts=("train",))
    if layer is None:
        agreements = "  ".join(f"{name}: {value:.3f}" for name, value in choice.agreement.items())
        print(f"layer {choice.layer}, by agreement   {agreements}")
    for name, count, scores in zip(names, clusters.hierarchy.sizes, clusters.scores, strict=True):
        print(f"{name}: {count} subclasses   " + "  ".join(f"{tried}: {value:.3f}" for tried, value in scores.items()))
    print(path)


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    data: RunData,
    config: ClinicalConfig,
    out: Path | None = None,
    method: Method = "skd",
    to: Method = "kd",
    clinical: bool = False,
) -> None:
    """Print the label bits of comparisons beside the gain from subclasses; or write the clinical report of a network.

    Parameters
    ----------
    runs
        Folders of compare; with --clinical the run folder of a network, and perhaps of a second one on the same data,
        to which the first is compared.
    data
        The images of a clinical report.
    config
        What a clinical report measures.
    out
        Also plot the label bits against the gain of skd over `to` in this PNG file; with --clinical the folder of the
        report, by default clinical in the run folder.
    method, to
        The methods whose F1 are compared.
    clinical
        Write a page of sensitivity, specificity, AUROC, calibration, intervals by patient and heat maps, and a table of
        all predictions.
    """
    if clinical:
        _clinical_report(runs, data, config, out)
        return
    points = [(run.name, Comparison.load(run)) for run in runs]
    print(bits_beside_gain(points, method, to))
    if out is not None:
        print(save_bits(points, out, method=method, to=to))


def _clinical_report(chosen: tuple[Path, ...], data: RunData, config: ClinicalConfig, out: Path | None) -> None:
    if len(chosen) not in (1, 2):
        raise InputError(f"{len(chosen)} runs for a clinical report", "one, or two to compare")
    folders = [_shared(run) or run for run in chosen]
    options = data.of(folders[0])
    if out is None and not chosen[0].is_dir():
        raise InputError(f"{chosen[0]} is a model of the Hub", "--out FOLDER for the report")
    if len(folders) == 2 and (of_second := data.of(folders[1])) != options:
        raise InputError(f"{chosen[1]} has the data {of_second.data}", f"those of {chosen[0]}, {options.data}")
    images = options.read()
    networks = [rebuild(folder, images) for folder in folders]
    measured = clinical_report(networks[0], images, config, against=networks[1] if len(networks) == 2 else None)
    print(f"{measured.positive} against {measured.negative}: AUROC {percent(measured.auroc)}\n{measured.table()}")
    if measured.comparison is not None:
        print(f"AUROC over {chosen[1]}: {percent(measured.comparison.difference)}, p = {measured.comparison.p:.4g}")
    print(
        save_clinical(
            measured, out or chosen[0] / "clinical", networks[0], images, title=f"{chosen[0].name}, {images.source}"
        )
    )


def export(
    run: tyro.conf.Positional[Path],
    path: tyro.conf.Positional[Path | None] = None,
    /,
    to: Path | None = None,
    output: Output = "classes",
    license: str = "unknown",
) -> None:
    """Write a network for use without this library, as a file; or a folder for the Hugging Face Hub.

    Parameters
    ----------
    run
        Finished run folder of teacher or distill, an exported folder, or OWNER/NAME of the Hub.
    path
        File that ends in .onnx or .pt2.
    to
        A new or empty folder for a model card and the network, which Classifier.from_pretrained reads.
    output
        The probabilities that the file's network returns: those of the classes or of the subclasses.
    license
        Licence of the model in the card, an identifier of the Hub such as mit.
    """
    if (path is None) == (to is None):
        raise InputError("export to a file and a folder, or to neither", "FILE.onnx, FILE.pt2 or --to FOLDER")
    if path is not None:
        print(export_network(Classifier.from_pretrained(run), path, output=output))
        return
    assert to is not None
    scores = None
    if (run / "test.json").exists():
        with reading(run / "test.json", "the scores that the run wrote", *STRUCTURE):
            table = dict(json.loads((run / "test.json").read_text(encoding="utf-8")))
            scores = {str(name): float(value) for name, value in table.items()}
    Classifier.from_pretrained(run).export_hub(to, license=license, scores=scores)
    print(to)


def latency(
    run: tyro.conf.Positional[Path], /, batch: int = 1, threads: int = 1, seconds: float = 1.0, device: Device = "auto"
) -> None:
    """Time the forward pass of a network, and print the median and the quartiles.

    Parameters
    ----------
    run
        Finished run folder of teacher or distill, an exported folder, or OWNER/NAME of the Hub.
    batch
        Images per pass.
    threads
        Threads on a CPU.
    seconds
        How long to measure, about.
    """
    model = Classifier.from_pretrained(run)
    print(
        time_network(model.network.to(pick(device)), model.input_shape, batch=batch, threads=threads, seconds=seconds)
    )


def _shared(run: Path) -> Path | None:
    """Return the folder of a network without a run: exported, or downloaded from the Hub; None for a run folder."""
    if run.exists() and not ((run / WEIGHTS).exists() and not (run / RECIPE).exists()):
        return None
    if not run.exists() and (run.is_absolute() or len(run.parts) != 2):
        return None  # the run's reader says what is missing
    return hub.local_folder(run)


def _with_share(images: SubclassSet, share: float, rest: Rest, seed: int) -> SubclassSet:
    return images if share == 1 else images.scarce(share, seed, rest=rest)


def _recipe(data: Data, network: str, width: int | None) -> Recipe:
    hierarchy, subclasses = (None if file is None else str(file) for file in (data.hierarchy, data.subclasses))
    return Recipe(data.data, network, width, data.size, data.channels, hierarchy, subclasses, data.fold)


def _report_scores(network: nn.Module, data: SubclassSet, out: Path) -> None:
    scores = dataclasses.asdict(evaluate(network, data))
    files.write_text(out / "test.json", json.dumps(scores, indent=1) + "\n")
    print("  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items()))
    predicted = predict(network, data.test).argmax(dim=1).numpy()
    print(save_confusion(predicted, data.test.labels, data.hierarchy, out / "confusion.png"))
