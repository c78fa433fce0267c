"""Where a generation is evaluated: in this process, in worker processes or on a Ray cluster."""
