from .generators.diffusion import DiffusionGenerator as DiffusionGenerator
from .generators.gan import ConditionalGAN as ConditionalGAN
from .generators.generator import Generator as Generator
from .generators.generator import ImageGenerator as ImageGenerator
from .generators.generator import ModuleGenerator as ModuleGenerator
from .generators.storage import load_generator as load_generator
from .generators.storage import save_generator as save_generator
from .images.evaluation import GeneratorEvaluation as GeneratorEvaluation
from .images.evaluation import evaluate_generator as evaluate_generator
from .images.quality import Judge as Judge
from .images.quality import Quality as Quality
from .images.quality import frechet_distance as frechet_distance
from .images.quality import inception_fid as inception_fid
from .images.samples import save_samples as save_samples
from .images.stream import StreamedSet as StreamedSet
from .images.stream import stream as stream
from .images.synthesize import synthesize as synthesize
from .training.config import D2MConfig as D2MConfig
from .training.config import PretrainConfig as PretrainConfig
from .training.distill import D2M as D2M
from .training.matching import MatchingLoss as MatchingLoss
from .training.pool import Pool as Pool
from .training.pool import PoolConfig as PoolConfig
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
