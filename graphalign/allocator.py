"""Memory that has been freed, given back to the system.

glibc keeps freed blocks of up to 32 MiB for later ones. Between parts of the work on a large network, whose blocks differ in size, what
is kept and does not fit adds up to as much as what is in use (mallopt(3), "M_MMAP_THRESHOLD"; malloc_trim(3)).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # no such thing on this system
        return None
    return library if hasattr(library, "malloc_trim") else None


def give_back() -> None:
    """Gives the system what has been freed and is not in use; does nothing where the allocator is not that of glibc."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)
