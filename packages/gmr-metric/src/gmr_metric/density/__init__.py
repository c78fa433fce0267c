"""The Gaussian mixture as a value: parameters, densities, algebra, files and conversions."""
