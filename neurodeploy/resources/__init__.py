"""What layers need of a core: the only room that counts."""
