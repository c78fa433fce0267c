from .generators.adapted import AdaptedGenerator
from .generators.diffusion import DiffusionGenerator
from .generators.gan import ConditionalGAN
from .generators.generator import Generator, ImageGenerator, ModuleGenerator
from .generators.storage import load_generator, save_generator
from .images.evaluation import GeneratorEvaluation, evaluate_generator
from .images.hub_folder import export_hub
from .images.latent_set import LatentSet
from .images.plan import Batch, Plan, batches
from .images.quality import Judge, Quality, frechet_distance, inception_fid, precision_and_coverage
from .images.samples import save_samples
from .images.stream import StreamedSet, stream
from .images.synthesize import synthesize
from .training.config import D2MConfig, LatentConfig, PretrainConfig
from .training.distill import D2M
from .training.latents import LatentDistiller
from .training.matching import MatchingLoss
from .training.pool import Pool, PoolConfig
from .training.pretrain import pretrain

__all__ = [
    "D2M",
    "AdaptedGenerator",
    "Batch",
    "ConditionalGAN",
    "D2MConfig",
    "DiffusionGenerator",
    "Generator",
    "GeneratorEvaluation",
    "ImageGenerator",
    "Judge",
    "LatentConfig",
    "LatentDistiller",
    "LatentSet",
    "MatchingLoss",
    "ModuleGenerator",
    "Plan",
    "Pool",
    "PoolConfig",
    "PretrainConfig",
    "Quality",
    "StreamedSet",
    "batches",
    "evaluate_generator",
    "export_hub",
    "frechet_distance",
    "inception_fid",
    "load_generator",
    "precision_and_coverage",
    "pretrain",
    "save_generator",
    "save_samples",
    "stream",
    "synthesize",
]
__version__: str
