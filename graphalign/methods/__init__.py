"""Alignment methods: one file each, one signature, a plain dict as registry."""

from graphalign.methods.problem import Problem
from graphalign.methods.registry import METHODS, Method, list_methods

__all__ = ["METHODS", "Method", "Problem", "list_methods"]
