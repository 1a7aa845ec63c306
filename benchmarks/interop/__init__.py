"""Which tools read what neurodeploy writes, each tried in an environment of its own."""
