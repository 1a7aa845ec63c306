"""Partition, packing, placement and arrangement of a network on the cores of a chip."""
