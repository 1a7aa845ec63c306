"""Passes: each takes a network and returns a new one."""
