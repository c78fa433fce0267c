"""Experiments with small sets: continual learning and architecture search."""
