"""Generators: the interface, a GAN, models of diffusers, adapters, and their files."""
