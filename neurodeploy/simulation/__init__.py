"""Simulation: the float reference, records and the kernels of the emulators."""
