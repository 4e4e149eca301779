"""sparse kernels."""
