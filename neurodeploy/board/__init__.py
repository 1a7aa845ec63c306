"""Where cores stand on a board, which slices talk to which, and what spikes cost on their way."""
