"""Benchmarks: our methods beside other implementations, on the same inputs, each in a process of its own."""
