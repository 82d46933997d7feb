"""What every experiment leaves behind: one results file, and tables generated from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import graphalign
from graphalign.errors import InvalidInput
from graphalign.files import AnyPath, atomic_write

PACKAGE = Path(graphalign.__file__).resolve().parent


@dataclass(frozen=True)
class Table:
    """A table as it is printed.

    Attributes:
        title: one line.
        columns: headings.
        rows: cells as text, as many per row as there are columns.
        notes: sentences below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        widths = [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]
        words = [any(row[i][:1].isalpha() for row in self.rows) for i in range(len(self.columns))]
        rule = [":" + "-" * (w - 1) if left else "-" * (w - 1) + ":" for w, left in zip(widths, words, strict=True)]
        body = [
            "| " + " | ".join(t.ljust(w) if left else t.rjust(w) for t, w, left in zip(line, widths, words, strict=True)) + " |"
            for line in (self.columns, rule, *self.rows)
        ]
        return "\n".join([self.title, "", *body, *(["", *self.notes] if self.notes else [])])


def environment() -> dict[str, Any]:
    """Versions, git revision and size of the machine; nothing that names it.

    The revision is that of the checkout the package runs from, with "+changes" if tracked files of the package differ from it,
    or "none" outside a checkout.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "graphalign": graphalign.__version__,
        "revision": _revision(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _revision() -> str:
    root = PACKAGE.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (root / ".git").exists() or not (head := git("rev-parse", "--short=12", "HEAD")):
        return "none"
    changes = git("status", "--porcelain", "--untracked-files=no", "--", "graphalign", "converters")
    return f"{head}+changes" if changes else head


def output_folder(out: AnyPath) -> Path:
    """A folder for results, made and tried: call it before time is spent.

    Raises:
        InvalidInput: it cannot be written.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".graphalign"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have tried at the same time
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror or error}; choose another folder with --out") from None
    return folder


def publish(folder: Path, name: str, results: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Writes NAME.json and NAME.md into a folder, which is made if it is missing; earlier ones are replaced.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    folder = output_folder(folder)
    with atomic_write(folder / f"{name}.json", force=True) as draft:
        draft.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    where = results["environment"]
    made = (
        f"Generated from `{name}.json` by `{results['command']}`: seed {results['seed']}, revision {where['revision']}, "
        f"graphalign {where['graphalign']}, torch {where['torch']}, Python {where['python']}, {where['machine']}, "
        f"{where['cores']} cores, {where['threads']} {'thread' if where['threads'] == 1 else 'threads'}."
    )
    with atomic_write(folder / f"{name}.md", force=True) as draft:
        draft.write_text("\n\n".join([f"# {results['title']}", made, *map(str, tables)]) + "\n", encoding="utf-8")
