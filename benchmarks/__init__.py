"""Benchmarks: ``make bench``, ``make bench-outage`` and ``make bench-limit``."""
