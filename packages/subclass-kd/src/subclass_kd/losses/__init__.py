"""Objectives: a student learns from its labels, from a teacher's classes, or from a teacher's subclasses."""

from subclass_kd.losses.base import Objective, Reduction
from subclass_kd.losses.hard import Level
from subclass_kd.losses.learned import LearnedSubclassLoss
from subclass_kd.losses.objectives import ClassKDLoss, CrossEntropy, Softening, SubclassKDLoss
from subclass_kd.losses.rivals import DecoupledKDLoss, DISTLoss, StandardizedKDLoss

__all__ = [
    "ClassKDLoss",
    "CrossEntropy",
    "DISTLoss",
    "DecoupledKDLoss",
    "LearnedSubclassLoss",
    "Level",
    "Objective",
    "Reduction",
    "Softening",
    "StandardizedKDLoss",
    "SubclassKDLoss",
]
