"""Inner loops over components stored in columns, compiled by numba or vectorised with NumPy."""
