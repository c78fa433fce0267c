"""Losses for any training loop: label overlap, the contrastive losses, the likelihood and the asymmetric loss."""
