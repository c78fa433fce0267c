"""Data-to-model distillation: a data set in the weights of a generator, and any number of images out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from d2m_generator.distill import D2M, D2MConfig
from d2m_generator.evaluation import GeneratorEvaluation, evaluate_generator
from d2m_generator.gan import ConditionalGAN
from d2m_generator.generator import Generator, ImageGenerator, ModuleGenerator
from d2m_generator.matching import MatchingLoss
from d2m_generator.pool import Pool, PoolConfig
from d2m_generator.pretrain import PretrainConfig, pretrain, save_samples
from d2m_generator.quality import Judge, Quality, frechet_distance, inception_fid
from d2m_generator.storage import load_generator, save_generator
from d2m_generator.synthesize import StreamedSet, stream, synthesize

if TYPE_CHECKING:
    from d2m_generator.diffusion import DiffusionGenerator

__all__ = [
    "D2M",
    "ConditionalGAN",
    "D2MConfig",
    "DiffusionGenerator",
    "Generator",
    "GeneratorEvaluation",
    "ImageGenerator",
    "Judge",
    "MatchingLoss",
    "ModuleGenerator",
    "Pool",
    "PoolConfig",
    "PretrainConfig",
    "Quality",
    "StreamedSet",
    "evaluate_generator",
    "frechet_distance",
    "inception_fid",
    "load_generator",
    "pretrain",
    "save_generator",
    "save_samples",
    "stream",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    if name == "DiffusionGenerator":  # diffusers takes a second to import, and a GAN does not need it
        from d2m_generator.diffusion import DiffusionGenerator

        return DiffusionGenerator
    if name == "__version__":
        from importlib.metadata import version

        return version("d2m-generator")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
