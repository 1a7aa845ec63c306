"""What each layer may use of the cores."""
