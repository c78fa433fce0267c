"""Reduction methods, and the calls that run them."""
