"""The commands `continual` and `search`: two experiments, each with a small default on the digits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sextet_common import data as image_data

from attention_matching.distillation.config import DistillConfig
from attention_matching.distillation.shards import refuse_several
from attention_matching.evaluation.training import TrainConfig
from attention_matching.experiments.continual import ContinualConfig, continual
from attention_matching.experiments.grid import PAPERS_GRID, Grid
from attention_matching.experiments.search import SearchConfig, search, search_data
from attention_matching.experiments.small_sets import Source, small_sets


def continual_learning(
    out: Path,
    data: str = "digits",
    size: int | None = None,
    download: bool = False,
    steps: int = 5,
    ipc: int = 1,
    buffers: tuple[Source, ...] = ("random", "herding", "dm", "datadam", "atom"),
    orders: int = 3,
    distill_steps: int | None = None,
    networks: int = 1,
    epochs: int = 300,
    width: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Let classes arrive step by step, and compare buffers of a few images each; the same command goes on.

    Parameters
    ----------
    out
        The run folder: continual.json, continual.png, metrics.jsonl and the distillations.
    data
        The images: digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, mnist:PATH, cifar10:PATH, ...
    size
        Resize and crop the images of a folder to this many pixels a side.
    download
        Let torchvision fetch what is not on disk.
    steps
        In how many steps the classes arrive.
    ipc
        Images that a buffer keeps of each class (the papers: 20).
    buffers
        What the buffers hold: random, k-centre, herding, dm, datadam, atom.
    orders
        Orders of arrival (the papers: 5).
    distill_steps
        Steps of each distillation: 600 below 28 pixels, else 8000.
    networks
        Fresh networks for each buffer, order and step.
    epochs
        Passes over the buffer (the papers: 1000).
    width
        Channels of the networks trained on the buffer: 128; 64 below 28 pixels.
    seed
        The seed of all random numbers.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    refuse_several("continual")
    config = ContinualConfig(
        steps=steps,
        ipc=ipc,
        buffers=buffers,
        orders=orders,
        networks=networks,
        width=width,
        seed=seed,
        distill=DistillConfig(steps=distill_steps, device=device),
        training=TrainConfig(epochs=epochs, device=device),
    )
    result = continual(image_data.load(data, size=size, download=download), config, out)
    print(f"{result.to_markdown()}\n{out / 'continual.png'}")


def architecture_search(
    out: Path,
    data: str = "digits",
    size: int | None = None,
    download: bool = False,
    proxies: tuple[Source, ...] = ("random", "herding", "dm", "datadam", "atom"),
    ipc: int = 10,
    grid: Literal["small", "papers"] = "small",
    distill_steps: int | None = None,
    networks: int = 1,
    epochs: int = 100,
    whole_epochs: int = 60,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Rank many ConvNets by training on a few images per class; the same command goes on with a stopped search.

    Parameters
    ----------
    out
        The folder: proxies/ has the distillations, ranking/ search.json, search.png and metrics.jsonl.
    data
        The images: digits, folder:PATH, npz:PATH, npz-jpeg:PREFIX, mnist:PATH, cifar10:PATH, ...
    size
        Resize and crop the images of a folder to this many pixels a side.
    download
        Let torchvision fetch what is not on disk.
    proxies
        What is trained on: random, k-centre, herding, dm, datadam, atom.
    ipc
        Images per class of a proxy (the papers: 50).
    grid
        small: 96 ConvNets of widths 8 and 32; papers: their 720, for 32x32 images.
    distill_steps
        Steps of each distillation: 600 below 28 pixels, else 8000.
    networks
        Fresh networks for each architecture and training set.
    epochs
        Passes over a proxy.
    whole_epochs
        Passes over the whole training set.
    seed
        The seed of all random numbers.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    refuse_several("search")
    images = image_data.load(data, size=size, download=download)
    config = SearchConfig(
        grid=Grid() if grid == "small" else PAPERS_GRID,
        networks=networks,
        seed=seed,
        proxy=TrainConfig(epochs=epochs, device=device),
        whole=TrainConfig(epochs=whole_epochs, device=device),
    )
    distill = DistillConfig(steps=distill_steps, device=device)
    sets = small_sets(proxies, search_data(images, config), ipc, seed, distill, out / "proxies")
    result = search(images, sets, config, out / "ranking")
    print(f"{result.to_markdown()}\n{out / 'ranking' / 'search.png'}")
