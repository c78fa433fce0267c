"""Scenes of handwritten digits, the data that needs no download; see `compose`."""

from __future__ import annotations

from probmcl.data.scenes import FROM_THE_GROUP, GROUPS, MOST_DIGITS, Digits, compose, digits, mnist

__all__ = ["FROM_THE_GROUP", "GROUPS", "MOST_DIGITS", "Digits", "compose", "digits", "mnist"]
