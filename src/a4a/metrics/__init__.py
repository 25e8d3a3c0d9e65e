"""Measures of what came out: a metric a file."""
