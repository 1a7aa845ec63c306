"""What is left of a network's accuracy when it has to fit: our method beside what people would otherwise use.

``python -m benchmarks.compression TABLE --mnist FILE --out FILE`` makes one table; rows that the file has are not made again.
"""
