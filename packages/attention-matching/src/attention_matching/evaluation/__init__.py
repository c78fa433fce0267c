"""Evaluation of distilled sets: training on them, accuracy tables, robust scores, soft labels."""
