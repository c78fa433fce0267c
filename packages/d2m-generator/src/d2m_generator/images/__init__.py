"""Generated images: samples, distilled sets, sets on disk, and their measures."""
