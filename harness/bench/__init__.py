"""Benchmarks: ratios from interleaved runs, since absolute times belong to the machine and the hour."""
