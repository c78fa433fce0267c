"""Knowledge distillation through subclasses, with the label bits it adds. Not released yet: no public names."""

from __future__ import annotations

__all__: list[str] = []


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("subclass-kd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
