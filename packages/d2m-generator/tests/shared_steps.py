"""Jobs that test_processes runs alone and with two processes: ``[torchrun] shared_steps.py OUT [RUN]``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from d2m_generator import (
    D2M,
    ConditionalGAN,
    D2MConfig,
    DiffusionGenerator,
    LatentConfig,
    LatentDistiller,
    MatchingLoss,
    PoolConfig,
    PretrainConfig,
    pretrain,
    stream,
    synthesize,
)
from d2m_generator.images import stream as streams
from d2m_generator.training import distill
from sextet_common.data import load

STOP = int(os.environ.get("STOP_AT", "-1"))  # a step of the distillation at which all processes die


class Stopped(distill.DistillationJob):
    """A distillation that ends like a killed process."""

    def step(self, number: int) -> dict[str, torch.Tensor]:
        """Take a step, or die."""
        if number == STOP:
            os._exit(3)
        return super().step(number)


def main(out: str, run: str | None) -> None:
    """Save the images of every job and process."""
    torch.set_num_threads(1)
    distill.DistillationJob = Stopped  # type: ignore[misc]
    streams._BLOCK = 5
    pool = PoolConfig(networks=2, untrained=0.5, epochs=2, trained_on=30, refresh_every=3, width=8)
    match = {"real_batch": 8, "loss": MatchingLoss(maps="both", spread_weight=0.5), "pool": pool, "device": "cpu"}
    images, data = {}, load("digits")
    gan = ConditionalGAN(10, (1, 8, 8), width=4, noise=8)
    denoising = DiffusionGenerator.denoising(10, (1, 8, 8), width=8, steps=2)
    consistency = DiffusionGenerator.consistency(10, (1, 8, 8), width=8)
    short = PretrainConfig(steps=4, batch_size=12, device="cpu")
    for name, generator in {"gan": gan, "denoising": denoising, "consistency": consistency}.items():
        images[name] = synthesize(pretrain(generator, data, short), 4).images
    latents = LatentConfig(ipc=2, steps=4, inversion_steps=3, generator_lr=1e-3, **match)
    images["latents"] = synthesize(LatentDistiller(latents).fit(gan, data), 2).images
    config = D2MConfig(steps=9, images=3, steps_per_draw=2, checkpoint_every=2, **match)
    folder = None if run is None else Path(run)
    D2M(config).fit(gan, data, None if folder is None else folder / "d2m")
    images["d2m"] = synthesize(gan, (5, 1, 2), labels=(2, 0, 1)).images
    if folder is not None:
        images["stream"] = torch.from_numpy(stream(gan, 4, folder / "set").pixels.copy())
    torch.save(images, f"{out}-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
