"""Benchmarks: ratios from interleaved runs, since absolute times depend on the machine and its load."""
