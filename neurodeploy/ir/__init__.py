"""Network graphs: floats before quantisation, a chip's integers after it, and the structure that both share."""
