"""PyTorch and Norse modules become networks."""
