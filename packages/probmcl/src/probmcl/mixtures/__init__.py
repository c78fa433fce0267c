"""Gaussian mixtures: their parameters, the head that predicts them, their similarity and their uncertainty."""
