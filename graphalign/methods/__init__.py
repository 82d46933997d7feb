"""Alignment methods: one file each, one signature, a plain dict as registry."""

from graphalign.methods.problem import Problem, Solution
from graphalign.methods.registry import METHODS, Method, Solver, configure, list_methods

__all__ = ["METHODS", "Method", "Problem", "Solution", "Solver", "configure", "list_methods"]
