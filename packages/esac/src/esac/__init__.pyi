from .algorithm import ESAC
from .callbacks import All, SaveEvery, StopOnReward
from .config import ESACConfig, changed
from .engines.batch import BatchEngine
from .engines.ledger import WorkerError
from .engines.process import ProcessEngine
from .engines.ray import RayEngine
from .engines.serial import SerialEngine
from .generation import Generation
from .play.policy import NumpyPolicy, PolicyShape
from .play.rollout import Episode
from .presets import paper, preset, release
from .results.hub_folder import export_hub
from .results.video import record
from .sac.config import SACConfig
from .sac.replay import Replay
from .sac.update import SAC
from .tuning import Tuned, tune

__version__: str
__all__ = [
    "ESAC",
    "SAC",
    "All",
    "BatchEngine",
    "ESACConfig",
    "Episode",
    "Generation",
    "NumpyPolicy",
    "PolicyShape",
    "ProcessEngine",
    "RayEngine",
    "Replay",
    "SACConfig",
    "SaveEvery",
    "SerialEngine",
    "StopOnReward",
    "Tuned",
    "WorkerError",
    "changed",
    "export_hub",
    "paper",
    "preset",
    "record",
    "release",
    "tune",
]
