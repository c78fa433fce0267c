"""What `import esac` gives, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import esac
import pytest


def test_names_are_listed_and_importable() -> None:
    assert set(esac.__all__) <= set(dir(esac)) and esac.__version__ == version("esac")
    names: dict[str, object] = {}
    exec("from esac import *", names)
    assert set(esac.__all__) <= set(names) and all(names[name] is getattr(esac, name) for name in esac.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = esac.nonsense


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import esac", {"torch", "gymnasium", "numpy"}),
        ("from esac.__main__ import main; main(['--help'])", {"torch", "gymnasium", "tyro"}),
        ("from esac import NumpyPolicy, ESACConfig, ProcessEngine", {"torch", "matplotlib"}),
    ],
)
def test_heavy_libraries_are_imported_when_they_are_needed(code: str, absent: set[str]) -> None:
    script = f"{code}\nimport sys\nassert not {absent!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_documented_modules_have_their_names() -> None:
    import esac.plotting
    import esac.statistics
    import esac.summaries
    from esac.results import plotting, statistics, summaries

    assert esac.plotting.draw_all is plotting.draw_all and esac.plotting.scaling is plotting.scaling
    assert esac.statistics.iqm is statistics.iqm and esac.summaries.summary is summaries.summary
