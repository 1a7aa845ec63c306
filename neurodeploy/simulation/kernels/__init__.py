"""The emulator's inner loops, compiled: spikes add up behind synapses, neurons answer. All in whole numbers.

Loops run over neighbouring neurons (or pixels, or samples), and write to few arrays, so that they become vector instructions.
They let go of Python's lock: parts of a batch run at once.

Spikes are rows of bytes, 0 or 1, as many as eight divides; the last of them may be nobody's.
"""
