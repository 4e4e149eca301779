"""local2d kernels."""
