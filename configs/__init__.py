"""Configurations: Hydra composes them, classes take plain arguments."""
