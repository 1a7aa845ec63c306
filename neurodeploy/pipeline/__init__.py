"""The order of the passes: inspect, deploy, compress, evaluate."""
