"""The network graph: floats, integers, and what both share."""
