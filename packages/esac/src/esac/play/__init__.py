"""Policies, environments and the episodes that workers run: NumPy and gymnasium, no torch."""
