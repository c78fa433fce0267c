"""Attention maps, their fused kernels, and the matching losses."""
