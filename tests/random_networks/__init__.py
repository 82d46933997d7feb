"""Random architectures from a seed: supported ones (`random_network`) and ones with an operation in them that has no rule (`spoiled`)."""

from .grown import RandomNetwork, random_network
from .spoiled import spoiled

__all__ = ["RandomNetwork", "random_network", "spoiled"]
