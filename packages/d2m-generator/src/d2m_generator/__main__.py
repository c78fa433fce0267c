"""The command `d2m-generator`: pretrain, distill, synthesize, evaluate, show."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from attention_matching import ARCHITECTURES, EvaluateConfig, evaluate_random_real
from attention_matching.networks import Architecture
from sextet_common import cli, files
from sextet_common import data as image_data
from sextet_common.data import ImageSet
from sextet_common.errors import InputError, reading

from d2m_generator.distill import D2M, D2MConfig
from d2m_generator.evaluation import GeneratorEvaluation, Protocol, evaluate_generator
from d2m_generator.gan import ConditionalGAN
from d2m_generator.generator import ImageGenerator
from d2m_generator.pretrain import PretrainConfig, save_samples
from d2m_generator.pretrain import pretrain as pretrain_generator
from d2m_generator.quality import Judge
from d2m_generator.storage import load_generator
from d2m_generator.synthesize import Selection, stream
from d2m_generator.synthesize import synthesize as synthesize_set

Kind = Literal["gan", "consistency", "diffusion", "dit"]


def pretrain(
    out: Path,
    config: PretrainConfig,
    data: str = "digits",
    kind: Kind = "gan",
    width: int = 32,
    size: int | None = None,
    judged: bool = True,
) -> None:
    """Train a generator on real images; the same command goes on with a stopped run.

    Parameters
    ----------
    out
        The run folder.
    config
        How to train.
    data
        The images: digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, mnist:PATH, cifar10:PATH, ...
    kind
        gan, consistency, diffusion or dit.
    width
        Channels of its first or last block; of a dit, of its tokens.
    size
        Pixels a side of a folder's images.
    judged
        Print how near its images are to the real ones.
    """
    images = image_data.load(data, size=size)
    generator = _made(kind, images, width)
    pretrain_generator(generator, images, config, out)
    print(f"{out / 'generator'}\n{out / 'samples.png'}")
    if judged:
        _judge(generator, images, out)


def distill(
    run: tyro.conf.Positional[Path],
    /,
    out: Path,
    config: D2MConfig,
    data: str | None = None,
    rank: int = 4,
    size: int | None = None,
    judged: bool = True,
) -> None:
    """Distill a data set into a generator that is trained already; the same command goes on with a stopped run.

    Parameters
    ----------
    run
        The generator's folder, such as that of pretrain.
    out
        The run folder.
    config
        How to distill.
    data
        The images: those of the generator's run where not given.
    rank
        Of the adapters, with --parameters lora.
    size
        Pixels a side of a folder's images.
    judged
        Print how near its images are to the real ones.
    """
    images = image_data.load(data or _source(run), size=size)
    generator = load_generator(run)
    if config.parameters == "lora":
        from d2m_generator.diffusion import DiffusionGenerator

        if not isinstance(generator, DiffusionGenerator):
            raise InputError("adapters in a GAN", "--parameters all, last or classes, or a diffusion model")
        generator.add_lora(rank)
    D2M(config).fit(generator, images, out)
    print(f"{out / ('lora.safetensors' if config.parameters == 'lora' else 'generator')}\n{out / 'samples.png'}")
    if judged:
        _judge(generator, images, out)


def synthesize(
    run: tyro.conf.Positional[Path],
    /,
    out: Path,
    ipc: int = 10,
    seed: int = 0,
    selection: Selection = "random",
    lora: Path | None = None,
    data: str | None = None,
    size: int | None = None,
) -> None:
    """Make any number of images per class: a distilled set, or a folder of bytes for large numbers.

    Parameters
    ----------
    run
        The generator's folder.
    out
        A .safetensors file, which attention-matching reads; or a new folder, which is written a batch at a time.
    ipc
        Images per class.
    seed
        Of the noise.
    selection
        random, herding or diverse.
    lora
        Adapters that distill left, for a diffusion model's folder.
    data
        Whose class names and statistics the set takes: the images of the generator's run where not given.
    size
        Pixels a side of a folder's images.
    """
    generator = _loaded(run, lora)
    images = image_data.load(data or _source(run), size=size)
    if out.suffix == ".safetensors":
        synthesize_set(generator, ipc, seed, selection, data=images).save(out)
    elif selection != "random":
        raise InputError(f"selection {selection} into a folder", "random, or a .safetensors file")
    else:
        stream(generator, ipc, out, seed, data=images)
    print(out)


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    config: EvaluateConfig,
    ipc: tuple[int, ...] = (1, 10, 50),
    protocol: Protocol = "fixed",
    architectures: tuple[Architecture, ...] = (),
    selection: Selection = "random",
    random_real: bool = True,
    noise_seed: int = 0,
    lora: Path | None = None,
    data: str | None = None,
    size: int | None = None,
) -> None:
    """Print the test accuracy of fresh networks trained on a generator's images; a stopped command goes on.

    Parameters
    ----------
    run
        The generator's folder.
    config
        How to train the networks.
    ipc
        Images per class: several numbers give a row each.
    protocol
        fixed (made once; comparable with other distilled sets) or regenerate (fresh ones every epoch).
    architectures
        Networks, in the place of the configuration's one.
    selection
        How images are chosen, with fixed.
    random_real
        Also train on as many random real images.
    noise_seed
        Of the images' noise.
    lora
        Adapters that distill left, for a diffusion model's folder.
    data
        The images to test on: those of the generator's run where not given.
    size
        Pixels a side of a folder's images.
    """
    generator = _loaded(run, lora)
    images = image_data.load(data or _source(run), size=size)
    table: list[dict[str, Any]] = []
    for architecture in architectures or (config.architecture,):
        if architecture not in ARCHITECTURES:
            raise InputError(f"architecture is {architecture!r}", ", ".join(ARCHITECTURES))
        chosen = dataclasses.replace(config, architecture=architecture)
        for count in ipc:
            place = (run if lora is None else lora.parent) / "evaluation"
            place = place / f"{protocol}-{selection}-{architecture}-{count}-{noise_seed}"
            found: GeneratorEvaluation = evaluate_generator(
                generator, images, count, chosen, place, protocol=protocol, selection=selection, seed=noise_seed
            )
            row = {"architecture": architecture, "ipc": count, "protocol": protocol,
                   "generated": list(found.evaluation.accuracies)}  # fmt: skip
            line = f"{architecture:9} ipc {count:4}  generated {found.evaluation} ({protocol})"
            if random_real:
                real = evaluate_random_real(images, count, chosen, place.with_name(f"real-{architecture}-{count}"))
                row["random_real"] = list(real.accuracies)
                line += f"  random real {real}"
            print(line)
            table.append(row)
    files.write_text((run if lora is None else lora.parent) / "evaluation.json", json.dumps(table, indent=1) + "\n")


def show(
    run: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
    seed: int = 0,
    columns: int = 8,
    lora: Path | None = None,
) -> None:
    """Draw some images of every class.

    Parameters
    ----------
    run
        The generator's folder.
    out
        The PNG file: shown.png in the folder where not given.
    seed
        Of the noise.
    columns
        Images of each class.
    lora
        Adapters that distill left, for a diffusion model's folder.
    """
    print(save_samples(_loaded(run, lora), out or run / "shown.png", seed=seed, columns=columns))


def _made(kind: Kind, images: ImageSet, width: int) -> ImageGenerator:
    if kind == "gan":
        return ConditionalGAN(images.n_classes, images.image_shape, width=width)
    from d2m_generator.diffusion import DiffusionGenerator

    if kind == "consistency":
        return DiffusionGenerator.consistency(images.n_classes, images.image_shape, width=width)
    make = DiffusionGenerator.denoising if kind == "diffusion" else DiffusionGenerator.dit
    return make(images.n_classes, images.image_shape, width=width)


def _loaded(run: Path, lora: Path | None) -> ImageGenerator:
    generator = load_generator(run)
    if lora is None:
        return generator
    from d2m_generator.diffusion import DiffusionGenerator

    if not isinstance(generator, DiffusionGenerator):
        raise InputError(f"adapters for a {type(generator).__name__}", "the folder of a diffusion model")
    return generator.load_lora(lora)


def _source(run: Path) -> str:
    """Return the data of a generator's run."""
    with reading(run / "config.json", "--data, or a run folder that says what its images are"):
        return str(json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["data"])


def _judge(generator: ImageGenerator, images: ImageSet, out: Path) -> None:
    found = Judge(images)(generator)
    files.write_text(out / "quality.json", json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    print(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        The words after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code: 0, 2 for bad input, 130 where interrupted.
    """
    commands: dict[str, Callable[..., None]] = {
        "pretrain": pretrain,
        "distill": distill,
        "synthesize": synthesize,
        "evaluate": evaluate,
        "show": show,
    }
    return cli.run("d2m-generator", commands, arguments)


if __name__ == "__main__":
    sys.exit(main())
