"""Distills a dataset into the weights of a pre-trained generative model. Not released yet: no public names."""

from __future__ import annotations

__all__: list[str] = []


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("d2m-generator")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
