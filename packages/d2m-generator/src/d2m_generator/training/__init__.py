"""Training: pre-training on real images, and distillation."""
