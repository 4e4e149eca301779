"""Sparse connections: the stored synapses of a matrix, and never the absent ones."""
