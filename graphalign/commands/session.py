"""What every command about networks does alike: progress on standard error, one result on standard output, one message per error."""

from __future__ import annotations

import json
import math
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from graphalign.errors import GraphAlignError, first_line


class Session:
    """Where a command says things.

    Args:
        as_json: the result is JSON.
        quiet: no progress.
        verbose: progress line by line, with times.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self._begun = time.perf_counter()
        self._live = not quiet and not verbose and sys.stderr.isatty()

    def progress(self, what: str) -> None:
        """Says on standard error what is going on: a line of its own if verbose, the same line again on a terminal, else nothing."""
        if self.verbose:
            _write(sys.stderr, f"[{time.perf_counter() - self._begun:6.1f} s] {what}\n")
        elif self._live:
            _write(sys.stderr, f"\r\x1b[K{plain(what)[:100]}", raw=True)

    def steps(self, done: int, total: int, what: str) -> None:
        """Progress of a known number of steps."""
        self.progress(f"{done}/{total} {what}")

    def note(self, text: str) -> None:
        """Something to know about the result, on standard error."""
        if not self.quiet:
            self.clear()
            _write(sys.stderr, f"{text}\n")

    def clear(self) -> None:
        """Takes the progress off the terminal."""
        if self._live:
            _write(sys.stderr, "\r\x1b[K", raw=True)

    def result(self, content: Mapping[str, Any], text: str) -> None:
        """Prints the result: as JSON, or as text."""
        self.clear()
        _write(sys.stdout, (json.dumps(finite(content), indent=2) if self.as_json else text.rstrip("\n")) + "\n")


@contextmanager
def session(as_json: bool = False, quiet: bool = False, verbose: bool = False) -> Iterator[Session]:
    """A session; whatever goes wrong in it becomes one message on standard error and exit code 1."""
    if quiet and verbose:
        raise typer.BadParameter("found both, expected one of them", param_hint="--quiet, --verbose")
    found = Session(as_json, quiet, verbose)
    try:
        yield found
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except GraphAlignError as error:
        message = str(error)
    except MemoryError:
        message = "there is not enough memory for this; use a machine with more, or --device"
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be used: {error.strerror or first_line(error)}; check the path and its permissions"
    except Exception as error:
        if verbose:
            raise
        message = f"unexpected {type(error).__name__}: {first_line(error)}; with --verbose there is a traceback to report"
    else:
        return
    found.clear()
    _write(sys.stderr, f"error: {message}\n")
    raise typer.Exit(1)


def plain(text: str) -> str:
    """Text without control characters (names in files may hold commands to a terminal), line ends and tabs apart."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else ascii(c)[1:-1] for c in text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under headings; the first column is set left, the others right."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in (columns, *rows)]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def finite(value: Any) -> Any:
    """Plain content in which numbers that JSON cannot hold are null."""
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings of a method from "key=value" texts; values are read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            equals = ""
        if not equals or not key.strip().isidentifier():
            raise typer.BadParameter(f"found {pair[:80]!r}, expected KEY=VALUE such as restarts=4", param_hint="--set")
    return found


def _write(stream: TextIO, text: str, raw: bool = False) -> None:
    shown = text if raw else plain(text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
