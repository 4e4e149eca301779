"""trace kernels."""
