from .generators.diffusion import DiffusionGenerator as DiffusionGenerator
from .generators.gan import ConditionalGAN as ConditionalGAN
from .generators.generator import (
    Generator as Generator,
    ImageGenerator as ImageGenerator,
    ModuleGenerator as ModuleGenerator,
)
from .generators.storage import load_generator as load_generator, save_generator as save_generator
from .images.evaluation import GeneratorEvaluation as GeneratorEvaluation, evaluate_generator as evaluate_generator
from .images.quality import (
    Judge as Judge,
    Quality as Quality,
    frechet_distance as frechet_distance,
    inception_fid as inception_fid,
)
from .images.samples import save_samples as save_samples
from .images.stream import StreamedSet as StreamedSet, stream as stream
from .images.synthesize import synthesize as synthesize
from .training.config import D2MConfig as D2MConfig, PretrainConfig as PretrainConfig
from .training.distill import D2M as D2M
from .training.matching import MatchingLoss as MatchingLoss
from .training.pool import Pool as Pool, PoolConfig as PoolConfig
from .training.pretrain import pretrain as pretrain

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
__version__: str
