"""Evolution-based soft actor-critic for gymnasium and MuJoCo. Not released yet: no public names."""

from __future__ import annotations

__all__: list[str] = []


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("esac")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
