"""Chip profiles: limits with units and sources."""
