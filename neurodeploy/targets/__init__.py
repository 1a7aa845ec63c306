"""Targets: each knows one family of chips."""
