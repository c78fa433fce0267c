"""Release distilled sets as small files, and make the released ones again from the data.

    python examples/remake_sets.py release runs/dm --name cifar10-dm-ipc1 --data-name CIFAR-10
    python examples/remake_sets.py remake --data npz-jpeg:PATH/cifar10-jpeg

``release`` adds a finished run to the folder ``sets``: a compact file, its card and picture, and a line of SHA256SUMS.
``remake`` distils every set there with its recorded settings and compares: the SHA-256 is the same on a machine that
computes alike (processor, torch, threads); elsewhere the largest difference of two pixels says how near it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from attention_matching import DistillConfig, DistilledSet, Distiller, save_card
from attention_matching.export.card import read_evaluation
from sextet_common import data as image_data, files, pixels
from sextet_common.data import DataOptions
from sextet_common.errors import InputError

SETS = Path(__file__).resolve().parent / "sets"
SUMS = "SHA256SUMS"


def sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every released file, by its name."""
    lines = (folder / SUMS).read_text().splitlines() if (folder / SUMS).exists() else []
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def config_of(distilled: DistilledSet) -> DistillConfig:
    """Return the settings that a set records."""
    known = {field.name for field in dataclasses.fields(DistillConfig)} & {*distilled.meta}
    settings: dict[str, Any] = {name: distilled.meta[name] for name in known}
    if settings.get("augment") is not None:
        settings["augment"] = tuple(settings["augment"])
    return DistillConfig(**settings)


def release(run: tyro.conf.Positional[Path], /, name: str, data_name: str, sets: Path = SETS) -> None:
    """Add the set of a finished run.

    Parameters
    ----------
    run
        The run folder; if it holds evaluation.json, the card has its accuracies.
    name
        Name of the files.
    data_name
        Name of the data, in place of its path on this machine.
    sets
        The folder of released sets.
    """
    distilled = DistilledSet.from_pretrained(run)
    released = dataclasses.replace(distilled, meta={**distilled.meta, "data": data_name})
    path = sets / f"{name}.safetensors"
    if path.exists():
        raise InputError(f"{path} exists", "another name")
    released.save(path, compact=True)
    small = DistilledSet.load(path)  # what others will see
    small.save_grid(path.with_suffix(".png"))
    save_card(small, path.with_suffix(".md"), read_evaluation(run / "evaluation.json"))
    table = {**sums(sets), path.name: digest_of(path)}
    files.write_text(sets / SUMS, "".join(f"{digest}  {file}\n" for file, digest in sorted(table.items())))
    print(f"{path}, {path.stat().st_size} bytes")


def remake(images: DataOptions, only: tuple[str, ...] = (), sets: Path = SETS, device: str = "auto") -> int:
    """Make the released sets again; the exit code is the number of those that differ.

    Parameters
    ----------
    images
        The data; its SHA-256 must be the recorded one.
    only
        Names of the sets; by default all that record this data.
    sets
        The folder of released sets.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    data, different = image_data.load(images.load()), 0
    content = pixels.fingerprint(data.train_images, data.train_labels)
    for name, digest in sums(sets).items():
        stored = DistilledSet.load(sets / name)
        if (only and Path(name).stem not in only) or stored.meta["data_sha256"] != content:
            continue
        config = dataclasses.replace(config_of(stored), device=device)
        made = dataclasses.replace(Distiller(config).fit(data), meta=stored.meta)
        with tempfile.TemporaryDirectory() as folder:
            made.save(Path(folder) / name, compact=True)
            same = digest_of(Path(folder) / name) == digest
        apart = 255 * float(np.abs(made.pixels() - stored.pixels()).max())
        print(f"{name}: {'identical' if same else f'different by up to {apart:.1f} grey levels'}", flush=True)
        different += not same
    return different


if __name__ == "__main__":
    spread: Any = tyro.conf.OmitArgPrefixes
    sys.exit(tyro.extras.subcommand_cli_from_dict({"release": release, "remake": remake}, config=(spread,)))
