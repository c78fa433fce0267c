"""Soft actor-critic: networks, replay, losses and the episodes that it learns from."""
