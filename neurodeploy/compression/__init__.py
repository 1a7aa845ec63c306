"""Pruning methods: training under a chip's budget."""
