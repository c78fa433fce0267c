"""Batches of mixtures in PyTorch: closed-form blocks for CPUs, Triton kernels for GPUs, autograd for the rest."""
