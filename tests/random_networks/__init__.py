"""Random architectures from a seed: supported ones, ones of values that are one unit, and ones with an operation in them that has no rule."""

from .grown import RandomNetwork, random_network
from .spoiled import spoiled
from .tied import TiedNetwork, tied_network

__all__ = ["RandomNetwork", "TiedNetwork", "random_network", "spoiled", "tied_network"]
