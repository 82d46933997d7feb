"""What is asked of every bad input: an error in one message, within the memory of its size, with nothing run, changed or written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from graphalign.errors import GraphAlignError

ROOM = 64 << 20
"""Bytes of memory that any input may take, however small; beside them it may take a few times its own size."""
TIMES = 8


def contents(folder: Path) -> dict[str, str]:
    """Every path below a folder, with the digest of what it holds."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            mode = path.lstat().st_mode
            held = path.read_bytes() if stat.S_ISREG(mode) else os.readlink(path).encode() if stat.S_ISLNK(mode) else b""
            found[str(path)] = f"{stat.S_IFMT(mode)} {hashlib.sha256(held).hexdigest()}"
    return found


def _peak() -> int:
    """Bytes of the process at their highest since `_forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def faults(folder: Path, act: Callable[[], str | None]) -> list[str]:
    """What is wrong with the way in which an action ended that met a bad input in `folder`.

    Args:
        folder: holds the input and everything it could change.
        act: returns the message of the error, or None if there was none; whatever it raises is a fault.
    """
    before = contents(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    measured = sys.platform == "linux"
    if measured:
        _forget_peak()
        held = _peak()
    found = []
    try:
        message = act()
    except BaseException as error:  # noqa: BLE001 (the judge of what escapes)
        found.append(f"raised {type(error).__name__}: {str(error)[:300]}")
    else:
        if message is None:
            found.append("succeeded")
        elif not message.strip() or "Traceback" in message or "error: unexpected" in message:
            found.append(f"has no message that explains it: {message[:300]!r}")
    if measured and (taken := _peak() - held) > ROOM + TIMES * size:
        found.append(f"took {taken} bytes for {size} in files")
    after = contents(folder)
    if before != after:
        found.append(f"changed {sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))}")
    return found


def error_of(function: Callable[..., object], *arguments: object, **options: object) -> str | None:
    """The message of the error of the library that a call ends in, or None."""
    try:
        function(*arguments, **options)
    except GraphAlignError as error:
        return str(error)
    return None


def error_of_command(arguments: Sequence[str]) -> str | None:
    """What a command writes to standard error when it ends with exit code 1 or 2, or None if it ends well."""
    from graphalign.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["graphalign", *arguments]), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as end:
            if end.code in (1, 2):
                return errors.getvalue()
            if end.code not in (0, None):
                raise AssertionError(f"exit code {end.code}") from None
    return None
