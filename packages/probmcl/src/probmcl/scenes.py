"""Composed multi-label data: scenes of handwritten digits (`compose`) and mosaics of photographs (`mosaics`)."""

from __future__ import annotations

from probmcl.data.mosaics import mosaics, ring
from probmcl.data.scenes import FROM_THE_GROUP, GROUPS, MOST_DIGITS, Digits, compose, digits, mnist

__all__ = ["FROM_THE_GROUP", "GROUPS", "MOST_DIGITS", "Digits", "compose", "digits", "mnist", "mosaics", "ring"]
