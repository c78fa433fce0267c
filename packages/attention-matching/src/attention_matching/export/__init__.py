"""Distilled sets as files for other tools, and data cards."""
