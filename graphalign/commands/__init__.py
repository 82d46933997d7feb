"""Commands about networks on disk, one per file."""

from graphalign.commands.align import align
from graphalign.commands.barrier import barrier
from graphalign.commands.compare import compare
from graphalign.commands.inspect import inspect
from graphalign.commands.merge import merge
from graphalign.commands.methods import methods
from graphalign.commands.verify import verify

COMMANDS = (inspect, verify, align, merge, barrier, compare, methods)

__all__ = ["COMMANDS", "align", "barrier", "compare", "inspect", "merge", "methods", "verify"]
