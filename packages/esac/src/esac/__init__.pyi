from .algorithm import ESAC as ESAC
from .callbacks import All as All, SaveEvery as SaveEvery, StopOnReward as StopOnReward
from .config import ESACConfig as ESACConfig, changed as changed
from .engines.ledger import WorkerError as WorkerError
from .engines.process import ProcessEngine as ProcessEngine
from .engines.ray import RayEngine as RayEngine
from .engines.serial import SerialEngine as SerialEngine
from .generation import Generation as Generation
from .play.policy import NumpyPolicy as NumpyPolicy, PolicyShape as PolicyShape
from .play.rollout import Episode as Episode
from .presets import preset as preset, release as release
from .results.video import record as record
from .sac.config import SACConfig as SACConfig
from .sac.replay import Replay as Replay
from .sac.update import SAC as SAC

__version__: str
__all__ = [
    "ESAC",
    "SAC",
    "All",
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
    "WorkerError",
    "changed",
    "preset",
    "record",
    "release",
]
