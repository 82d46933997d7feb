"""Experiments: each prints a table and writes one results file."""
