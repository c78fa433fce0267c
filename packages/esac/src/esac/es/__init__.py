"""The evolution strategy: the population and the formulas that move its mean."""
