"""A generator as a folder for the Hugging Face Hub: a model card beside the files that `load_generator` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sextet_common import hub, text
from sextet_common.errors import InputError

from d2m_generator.generators.adapted import AdaptedGenerator, unadapted
from d2m_generator.generators.gan import FILE, ConditionalGAN
from d2m_generator.generators.generator import ImageGenerator
from d2m_generator.generators.storage import check_savable
from d2m_generator.images.latent_set import FILE as LATENTS, LatentSet

_LATENTS = """`{file}` holds {ipc} images of each class as latents of the generator, at layer {layer}:

```python
from d2m_generator import LatentSet, synthesize

images = synthesize(LatentSet.load("OWNER/NAME"), ipc={ipc})  # or this folder
```"""


def export_hub(
    generator: ImageGenerator | LatentSet,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] = (),
    scores: Mapping[str, str] | None = None,
    license: str = "unknown",
) -> None:
    """Write a model card (README.md) and the generator, which `load_generator` reads; a latent set has both.

    A diffusion model is in the format of diffusers. A consistency model, and a DiT with a VAE, have model_index.json:
    `diffusers.DiffusionPipeline` opens the folder. ``classes`` are the names of the classes, and ``scores`` measures of
    the images; both come into the card. ``license`` is an identifier of the Hub, such as mit. ``path`` is a new or
    empty folder, written atomically.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from d2m_generator import load_generator
    >>> folder = Path(tempfile.mkdtemp()) / "gan"
    >>> gan = ConditionalGAN(2, (1, 8, 8), width=4)
    >>> export_hub(gan, folder, classes=("cat", "dog"))
    >>> sorted(file.name for file in folder.iterdir())
    ['README.md', 'generator.safetensors']
    >>> labels = torch.tensor([0, 1])
    >>> torch.equal(load_generator(folder).sample(labels, seed=0), gan.sample(labels, seed=0))
    True
    """
    if classes and len(classes) != generator.n_classes:
        raise InputError(f"{len(classes)} class names", f"{generator.n_classes}, as the generator's")
    latents = generator if isinstance(generator, LatentSet) else None
    model = generator.generator if isinstance(generator, LatentSet) else generator
    check_savable(model)
    with hub.new_folder(path) as folder:
        plain = unadapted(model)
        if isinstance(model, AdaptedGenerator):
            model.save_settings(folder)
        if isinstance(plain, ConditionalGAN):
            plain.save(folder / FILE)
            pipeline, body = None, [f"`{FILE}` holds the weights and settings of a residual GAN."]
        else:
            pipeline, body = _write_diffusers(plain, folder)
        if latents is not None:
            latents.save_latents(folder / LATENTS)
            body.append(_LATENTS.format(file=LATENTS, ipc=latents.ipc, layer=latents.layer))
        (folder / "README.md").write_text(_card(model, pipeline, body, classes, scores, license), encoding="utf-8")


def _write_diffusers(generator: Any, folder: Path) -> tuple[str | None, list[str]]:
    """Write a diffusion model in the format of diffusers; return its pipeline and the section about the files."""
    from d2m_generator.generators.diffusers_folder import pipeline_of, write_parts

    parts = generator.parts()
    write_parts(folder, parts)
    return pipeline_of(parts), _of_diffusers(generator, pipeline_of(parts))


def _card(
    generator: ImageGenerator,
    pipeline: str | None,
    files: list[str],
    classes: Sequence[str],
    scores: Mapping[str, str] | None,
    license: str,
) -> str:
    """Return the README.md; ``pipeline`` is the pipeline of diffusers that opens the folder, ``files`` says what is."""
    front: dict[str, Any] = {
        "library_name": "d2m-generator" if pipeline is None else "diffusers",
        "license": license,
        "pipeline_tag": "unconditional-image-generation",  # the Hub's task for models that take no text
        "tags": ["d2m-generator", "class-conditional-image-generation"],
    }
    channels, height, width = generator.image_shape
    body = [
        "# A class-conditional image generator",
        f"Generates images of {height} x {width} pixels with {channels} channels, in {generator.n_classes} classes.",
    ]
    if classes:
        body.append(text.markdown_table(("label", "class"), [(str(k), name) for k, name in enumerate(classes)]))
    if scores:
        body.append(text.markdown_table(("measure", "value"), list(scores.items())))
    body += [
        *files,
        "Describe the data it was trained on and name their licence here: a generator can repeat its training images.",
        f"""```python
import torch
from d2m_generator import load_generator

generator = load_generator("OWNER/NAME")  # or this folder
images = generator.sample(torch.tensor([0, {generator.n_classes - 1}]), seed=0)  # pixels in about [0, 1]
```""",
    ]
    return hub.card(front, "\n\n".join(body))


def _of_diffusers(generator: Any, pipeline: str | None) -> list[str]:
    """Return the section about the files of a diffusion model."""
    kind, part = ("DiTTransformer2DModel", "transformer") if generator.transformer else ("UNet2DModel", "unet")
    steps = f"d2m-generator samples in {generator.steps} steps with guidance {generator.guidance:g}."
    if pipeline is None:
        return [
            f"The files are in the format of diffusers. {steps} No pipeline of diffusers takes class labels for such a "
            f'model; `diffusers.{kind}.from_pretrained("OWNER/NAME", subfolder="{part}")` opens its network.'
        ]
    last = generator.n_classes - 1
    guidance = generator.guidance if generator.null == 1000 else 1
    options = f"class_labels=[0, {last}], num_inference_steps={generator.steps}"
    options = f"{options}, guidance_scale={guidance:g}" if generator.transformer else f"batch_size=2, {options}"
    lines = [
        f"The files are in the format of diffusers. {steps} The same with diffusers alone:",
        f"""```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("OWNER/NAME")  # or this folder
images = pipeline({options}).images
```""",
    ]
    if generator.transformer and generator.null != 1000:
        lines.append("The pipeline's guidance supposes 1000 classes; d2m-generator's works for any number.")
    return lines
