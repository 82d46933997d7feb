"""Populations of independently trained networks: how they are designed, trained, stored and read."""
