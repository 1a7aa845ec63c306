"""What a layer needs of a core: the only place that counts."""
