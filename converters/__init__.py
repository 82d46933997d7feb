"""Converters: from networks to specs and neuron graphs."""

if __name__ != "graphalign.converters":
    raise ImportError("import graphalign.converters, not the top-level name 'converters'")

from graphalign.inputs import Inputs

from .chain import chain_network, chain_spec
from .rules import Context, elementwise, register_rule
from .trace import trace

__all__ = ["Context", "Inputs", "chain_network", "chain_spec", "elementwise", "register_rule", "trace"]
