"""Settings of suites as the command line makes them."""

from __future__ import annotations

from graphalign.bench.settings import Settings, read_settings
from graphalign.configuration import compose


def composed(suite: str, *changes: str, quick: bool = True) -> Settings:
    """Those of a suite's configuration with changes; the quick one unless it is not wanted."""
    options = [*changes, *(["--quick"] if quick else [])]
    return read_settings(suite, compose("bench", f"{suite}_quick" if quick else suite, changes), options=options)
