"""Benchmark tasks: one file a benchmark."""
