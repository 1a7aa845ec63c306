"""The tight lower bound on cores: no placement takes fewer."""
