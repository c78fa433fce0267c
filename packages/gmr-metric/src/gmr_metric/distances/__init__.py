"""Inner products, metrics and divergences between mixtures and between their components."""
