"""Dataset distillation by matching attention maps."""

from __future__ import annotations

__all__: list[str] = []


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("attention-matching")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
