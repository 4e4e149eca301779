"""PymoNNtorch behaviors under CoNeX's names."""
