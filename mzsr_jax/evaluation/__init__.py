"""Benchmarks: methods, metrics and tables."""
