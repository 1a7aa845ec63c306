"""How layers are cut and laid onto cores."""
