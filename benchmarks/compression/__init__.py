"""Benchmark of compression: accuracy under a memory budget, for our method and ten rivals.

``python -m benchmarks.compression TABLE --mnist FILE --out FILE`` computes one table; rows that the file already has are skipped.
"""
