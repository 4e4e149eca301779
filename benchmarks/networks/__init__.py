"""Published networks as benchmarks, each beside its reference: ``python -m benchmarks.networks``."""
