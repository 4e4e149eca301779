"""Dense connections: every pre neuron meets every post neuron."""
