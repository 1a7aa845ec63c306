"""Resource model: what layers take of a core. All counting is here."""
