"""A closed-form metric between Gaussian mixtures, and fast mixture reduction. Not released yet: no public names."""

from __future__ import annotations

__all__: list[str] = []


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("gmr-metric")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
