"""One-to-one connections: neuron k meets neuron k."""
