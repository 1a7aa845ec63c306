"""Frontends: from a framework's model or file to a Network."""
