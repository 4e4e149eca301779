"""conv2d kernels."""
