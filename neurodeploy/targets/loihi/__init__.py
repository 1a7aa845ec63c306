"""Loihi: registers, rounding, netx files, emulator and Lava."""
