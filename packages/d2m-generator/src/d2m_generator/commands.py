"""The commands of ``d2m-generator``."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import tyro
from attention_matching import (
    Architecture,
    EvaluateConfig,
    evaluate_random_real,
    export_hub as export_set,
    train_teacher,
)
from sextet_common import checks, files, loggers
from sextet_common.data import DataOptions, ImageSet
from sextet_common.errors import InputError
from sextet_common.options import Advanced
from sextet_common.processes import is_first, refuse_several

from d2m_generator.generators.adapted import unadapted
from d2m_generator.generators.gan import ConditionalGAN
from d2m_generator.generators.generator import ImageGenerator
from d2m_generator.generators.storage import load_generator
from d2m_generator.images.evaluation import Protocol, evaluate_generator
from d2m_generator.images.hub_folder import export_hub
from d2m_generator.images.latent_set import FILE as LATENTS, ImageSource
from d2m_generator.images.plan import Selection
from d2m_generator.images.samples import save_samples
from d2m_generator.images.stream import Layout, stream
from d2m_generator.images.synthesize import synthesize as synthesize_set
from d2m_generator.run_folders import Fit, RunData, judge, loaded, scores
from d2m_generator.training.config import D2MConfig, LatentConfig, PretrainConfig
from d2m_generator.training.distill import D2M
from d2m_generator.training.latents import LatentDistiller
from d2m_generator.training.pretrain import pretrain as pretrain_generator

Kind = Literal["gan", "consistency", "diffusion", "dit"]


def pretrain(
    out: Path,
    config: PretrainConfig,
    images: DataOptions,
    kind: Kind = "gan",
    width: int = 32,
    judged: bool = True,
    log: tuple[loggers.Name, ...] = (),
) -> None:
    """Train a generator on real images; the same command resumes a stopped run.

    Parameters
    ----------
    out
        The run folder.
    config
        The settings.
    kind
        gan, consistency, diffusion or dit.
    width
        Channels of the first or last block; of a dit, of its tokens.
    judged
        Print measures of the generated images.
    log
        Trackers that follow the job: tensorboard, wandb, mlflow (extras of the same names).
    """
    loggers.open(log)  # refuses a missing extra before the work
    data = images.load()
    generator = _untrained(kind, data, width)
    pretrain_generator(generator, data, config, out, log=log)
    _report(generator, data, out, "generator", judged)


def distill(
    run: tyro.conf.Positional[Path],
    /,
    out: Path,
    config: D2MConfig,
    images: RunData,
    fit: Fit,
    rank: int = 4,
    judged: bool = True,
    log: tuple[loggers.Name, ...] = (),
) -> None:
    """Distill a data set into a pre-trained generator; the same command resumes a stopped run.

    Parameters
    ----------
    run
        Folder of the generator: a run folder, a folder of export, or OWNER/NAME on the Hugging Face Hub.
    out
        The run folder.
    config
        The settings.
    rank
        Rank of the adapters, with --parameters lora.
    judged
        Print measures of the generated images.
    log
        Trackers that follow the job: tensorboard, wandb, mlflow (extras of the same names).
    """
    loggers.open(log)  # refuses a missing extra before the work
    data = images.of(run)
    generator = load_generator(run)
    if config.parameters == "lora":
        from d2m_generator.generators.diffusion import DiffusionGenerator

        base = unadapted(generator)
        if not isinstance(base, DiffusionGenerator):
            raise InputError("adapters in a GAN", "--parameters all, last or classes, or a diffusion model")
        base.add_lora(rank)
    generator = fit.of(generator, data)
    D2M(config).fit(generator, data, out, log=log)
    _report(generator, data, out, "lora" if config.parameters == "lora" else "generator", judged)


def latents(
    run: tyro.conf.Positional[Path],
    /,
    out: Path,
    config: LatentConfig,
    images: RunData,
    fit: Fit,
    judged: bool = True,
    log: tuple[loggers.Name, ...] = (),
) -> None:
    """Distill a data set into latents of a fixed number of images; the same command resumes a stopped run.

    Parameters
    ----------
    run
        Folder of the generator: a run folder, a folder of export, or OWNER/NAME on the Hugging Face Hub.
    out
        The run folder.
    config
        The settings.
    judged
        Print measures of the images.
    log
        Trackers that follow the job: tensorboard, wandb, mlflow (extras of the same names).
    """
    loggers.open(log)  # refuses a missing extra before the work
    data = images.of(run)
    result = LatentDistiller(config).fit(fit.load(run, data), data, out, log=log)
    _report(result, data, out, LATENTS, judged)


def synthesize(
    run: tyro.conf.Positional[Path],
    /,
    out: Path,
    images: RunData,
    ipc: tuple[int, ...] = (10,),
    labels: tuple[int, ...] = (),
    seed: int = 0,
    selection: Selection = "random",
    lora: Path | None = None,
    export: Literal["hub", "hub-imagefolder", "parquet", "png"] | None = None,
) -> None:
    """Generate any number of images per class, as a distilled set or as a folder of bytes for large numbers.

    Parameters
    ----------
    run
        Folder of the generator or latent set: a run folder, a folder of export, or OWNER/NAME on the Hugging Face Hub.
    out
        A .safetensors file, which attention-matching reads, or a new folder, which is written batch by batch; the same
        command resumes a stopped one. With --export, the new folder of the export.
    ipc
        Images per class: one number, or one for each of the labels.
    labels
        Numbers of the classes; all by default.
    seed
        Seed of the noise.
    selection
        random, herding or diverse.
    lora
        Folder of adapters that distill or peft wrote, for a folder of a diffusion model.
    export
        Write a folder that datasets.load_dataset opens: parquet or png (an imagefolder) for large numbers; hub
        (parquet) or hub-imagefolder with the exact tensors beside them.
    """
    generator, data = loaded(run, lora), images.of(run)
    count = ipc[0] if len(ipc) == 1 else ipc
    layout: Layout = "imagefolder" if export in ("png", "hub-imagefolder") else "parquet"
    if export in ("parquet", "png") or (export is None and out.suffix != ".safetensors"):
        place = out if export is None else out.with_name(f".{out.name}.arrays")
        made = stream(generator, count, place, seed, selection, labels=labels, data=data)
        if export is not None and is_first():
            made.export(out, layout)
            shutil.rmtree(place)
    else:
        distilled = synthesize_set(generator, count, seed, selection, labels=labels, data=data)
        if is_first():
            distilled.save(out) if export is None else export_set(distilled, out, layout=layout)
    if is_first():
        print(out)


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    config: EvaluateConfig,
    images: RunData,
    ipc: tuple[int, ...] = (1, 10, 50),
    protocol: Protocol = "fixed",
    architectures: tuple[Architecture, ...] = (),
    selection: Selection = "random",
    random_real: bool = True,
    noise_seed: Advanced[int] = 0,
    teacher_epochs: Advanced[int] = 30,
    temperature: Advanced[float] = 1.0,
    lora: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print the test accuracy of fresh networks trained on generated images; the same command resumes.

    Parameters
    ----------
    run
        Folder of the generator or latent set: a run folder, a folder of export, or OWNER/NAME on the Hugging Face Hub.
    config
        The networks and their training.
    ipc
        Images per class; one row for each number.
    protocol
        fixed (images generated once; comparable with other distilled sets) or regenerate (anew for every epoch).
    architectures
        Networks to train, instead of the configured one.
    selection
        How fixed selects the images.
    random_real
        Also train on as many random real images.
    noise_seed
        Seed of the images' noise.
    teacher_epochs, temperature
        With --labels soft: passes over the training images of the classifier that labels the generated ones, a network
        as the evaluated ones, and the temperature of its probabilities.
    lora
        Folder of adapters that distill or peft wrote, for a folder of a diffusion model.
    out
        Folder of the results; by default that of the generator or of its adapters.
    """
    refuse_several("evaluate")
    generator, data = loaded(run, lora), images.of(run)
    home = out or (run if lora is None else lora.parent)
    if out is None and not home.is_dir():
        raise InputError(f"no folder for the results of {run}", "--out FOLDER")
    rows: list[dict[str, Any]] = []
    checks.check("architectures", architectures, tuple[Architecture, ...])
    for architecture in architectures or (config.architecture,):
        settings = dataclasses.replace(config, architecture=architecture)
        teacher, soft = None, ""
        if config.labels == "soft":
            soft = f"-soft-{teacher_epochs}-{temperature:g}"
            trained = dataclasses.replace(settings, labels="hard", epochs=teacher_epochs, networks=1)
            path = home / "evaluation" / f"teacher-{architecture}-{teacher_epochs}.safetensors"
            teacher = train_teacher(data, trained, path=path)
        for count in ipc:
            folder = home / "evaluation" / f"{protocol}-{selection}-{architecture}-{count}-{noise_seed}{soft}"
            result = evaluate_generator(
                generator,
                data,
                count,
                settings,
                folder,
                protocol=protocol,
                selection=selection,
                seed=noise_seed,
                teacher=teacher,
                temperature=temperature,
            )
            row = {"architecture": architecture, "ipc": count, "protocol": protocol, "labels": config.labels,
                   "generated": list(result.evaluation.accuracies)}  # fmt: skip
            how = f"{protocol}, soft labels" if soft else protocol
            line = f"{architecture:9} ipc {count:4}  generated {result.evaluation} ({how})"
            if random_real:
                plain = dataclasses.replace(settings, labels="hard")
                real = evaluate_random_real(data, count, plain, folder.with_name(f"real-{architecture}-{count}"))
                row["random_real"] = list(real.accuracies)
                line += f"  random real {real}"
            print(line)
            rows.append(row)
    files.write_text(home / "evaluation.json", json.dumps(rows, indent=1) + "\n")


def show(
    run: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
    seed: int = 0,
    columns: int = 8,
    lora: Path | None = None,
) -> None:
    """Save a picture with some images of every class.

    Parameters
    ----------
    run
        Folder of the generator or latent set: a run folder, a folder of export, or OWNER/NAME on the Hugging Face Hub.
    out
        The PNG file; by default shown.png in the folder of the generator.
    seed
        Seed of the noise.
    columns
        Images per class.
    lora
        Folder of adapters that distill or peft wrote, for a folder of a diffusion model.
    """
    generator = loaded(run, lora)
    if out is None and not run.is_dir():
        raise InputError(f"no folder for a picture of {run}", "--out FILE.png")
    print(save_samples(generator, out or run / "shown.png", seed=seed, columns=columns))


def export(
    run: tyro.conf.Positional[Path],
    /,
    to: Path,
    images: RunData,
    license: str = "unknown",
    lora: Path | None = None,
) -> None:
    """Write a folder for the Hugging Face Hub: a model card and the generator, and its latents if the run has them.

    Parameters
    ----------
    run
        Folder of the generator or latent set: a run folder, a folder of export, or OWNER/NAME on the Hugging Face Hub.
    to
        The folder, new or empty.
    images
        Data whose class names come into the card, with --data; by default the card has none.
    license
        Licence of the generator, an identifier of the Hub such as mit.
    lora
        Folder of adapters that distill or peft wrote, for a folder of a diffusion model; they are merged into it.
    """
    generator = loaded(run, lora, merged=True)
    classes = images.load().classes if images.data else ()
    measured = scores(run if lora is None else lora.parent)
    export_hub(generator, to, classes=classes, scores=measured, license=license)
    print(to)


def _report(source: ImageSource, data: ImageSet, out: Path, file: str, judged: bool) -> None:
    """Print where a job's results are, and measures of its images."""
    if is_first():
        print(f"{out / file}\n{out / 'samples.png'}")
        if judged:
            judge(source, data, out)


def _untrained(kind: Kind, images: ImageSet, width: int) -> ImageGenerator:
    if kind == "gan":
        return ConditionalGAN(images.n_classes, images.image_shape, width=width)
    from d2m_generator.generators.diffusion import DiffusionGenerator

    if kind == "consistency":
        return DiffusionGenerator.consistency(images.n_classes, images.image_shape, width=width)
    make = DiffusionGenerator.denoising if kind == "diffusion" else DiffusionGenerator.dit
    return make(images.n_classes, images.image_shape, width=width)
