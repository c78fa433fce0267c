"""What the commands read from run folders: generators, their data and measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from attention_matching import Evaluation
from sextet_common import files
from sextet_common.data import DataOptions, ImageSet
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.options import Advanced

from d2m_generator.generators.adapted import AdaptedGenerator, unadapted
from d2m_generator.generators.generator import ImageGenerator
from d2m_generator.generators.storage import load_generator
from d2m_generator.images.latent_set import ImageSource, LatentSet, load_source
from d2m_generator.images.quality import Judge


@dataclasses.dataclass(frozen=True)
class RunData(DataOptions):
    """The options that name a data set."""

    data: str = ""
    """The images, as for pretrain; by default those of the generator's run."""

    def of(self, run: Path) -> ImageSet:
        """Load the images, by default those of a generator's run."""
        return dataclasses.replace(self, data=self.data or source(run)).load()


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a generator of other classes or images than the data's is adapted."""

    class_ids: Advanced[tuple[int, ...]] = ()
    """The generator's class for each class of the data; all in their order by default."""
    resize: Advanced[bool] = False
    """Resize its images and convert grey and colour as the data has them."""

    def load(self, run: Path, data: ImageSet) -> ImageGenerator:
        """Load the generator of a folder for the data."""
        return self.of(load_generator(run), data)

    def of(self, generator: ImageGenerator, data: ImageSet) -> ImageGenerator:
        """Adapt a generator to the data."""
        if not self.class_ids and not self.resize:
            return generator
        shape = data.image_shape if self.resize else None
        return AdaptedGenerator(generator, class_ids=self.class_ids, image_shape=shape)


def loaded(run: Path, lora: Path | None, *, merged: bool = False) -> ImageGenerator | LatentSet:
    """Load the latent set or generator of a folder, with adapters, which ``merged`` adds to the weights."""
    generator = load_source(run)
    if lora is None:
        return generator
    from d2m_generator.generators.diffusion import DiffusionGenerator

    base = None if isinstance(generator, LatentSet) else unadapted(generator)
    if not isinstance(base, DiffusionGenerator):
        raise InputError(f"adapters for a {type(base or generator).__name__}", "the folder of a diffusion model")
    base.load_lora(lora)
    if merged:
        base.merge_lora()
    return generator


def source(run: Path) -> str:
    """Return the data of a generator's run."""
    with reading(run / "config.json", "--data, or a run folder that records its images", *STRUCTURE):
        return str(json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["data"])


def scores(run: Path) -> dict[str, str]:
    """Return the measures that distill or pretrain and evaluate left in a run folder."""
    scores: dict[str, str] = {}
    if (run / "quality.json").is_file():
        with reading(run / "quality.json", "the measures that the run wrote", *STRUCTURE):
            quality = {k: float(v) for k, v in json.loads((run / "quality.json").read_text(encoding="utf-8")).items()}
            scores["Fréchet distance (real images)"] = f"{quality['frechet']:.2f} ({quality['frechet_real']:.2f})"
            scores["images of their class, by a classifier"] = f"{100 * quality['agreement']:.1f} %"
            if "coverage" in quality:  # absent from runs of earlier versions
                scores["coverage (real images)"] = (
                    f"{100 * quality['coverage']:.0f} % ({100 * quality['coverage_real']:.0f} %)"
                )
    if (run / "evaluation.json").is_file():
        with reading(run / "evaluation.json", "the results that evaluate wrote", *STRUCTURE):
            for row in json.loads((run / "evaluation.json").read_text(encoding="utf-8")):
                name = f"test accuracy of {row['architecture']}, {row['ipc']} images per class, {row['protocol']}"
                scores[name] = str(Evaluation(tuple(row["generated"])))
    return scores


def judge(generator: ImageSource, images: ImageSet, out: Path) -> None:
    """Measure the images of a source, print the measures and write quality.json."""
    quality = Judge(images)(generator)
    files.write_text(out / "quality.json", json.dumps(dataclasses.asdict(quality), indent=1) + "\n")
    print(quality)
