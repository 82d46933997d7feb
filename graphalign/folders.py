"""Folders of results that appear complete or not at all, and outputs checked before any work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from graphalign.errors import InvalidInput

FOLDER = ""
"""Stands for folders among endings."""
REPORTS = (".html", ".htm")
"""Endings of a report."""
FORCE = "pass force=True (--force) to replace it"


def check_outputs(
    outputs: Mapping[str, Path], inputs: Sequence[Path], *, force: bool = False, endings: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> None:
    """Returns nothing if outputs can be written without touching an input; call it before any work.

    Args:
        outputs: files or folders by what they are called.
        inputs: all files that are read.
        force: existing outputs may be replaced; inputs may never be.
        endings: that an output may have, by what it is called; `FOLDER` is one.

    Raises:
        InvalidInput: lists every output of another ending, that is an input or exists, two outputs of one path, and folders that cannot be written.
    """
    problems = []
    seen: dict[Path, str] = {}
    for name, path in outputs.items():
        where = path.resolve()
        if where in seen:
            problems.append(f"{name}: {path} is the output of {seen[where]} too; choose different paths")
        seen[where] = name
        if problem := ending_problem(path, endings.get(name, [path.suffix])):
            problems.append(f"{name}: {problem}")
            continue
        if touched := next((file for file in inputs if _same(path, file) or (path.is_dir() and _same(path, file.parent))), None):
            problems.append(f"{name}: {path} is where the input {touched} is, which is never changed; choose another path")
        elif path.exists() and not force and not (path.is_dir() and not any(path.iterdir())):
            problems.append(f"{name}: {path} exists already; {FORCE}, or choose another path")
        elif not (folder := where.parent).is_dir():
            problems.append(f"{name}: the folder of {path} does not exist; create it or choose another path")
        elif not os.access(folder, os.W_OK):
            problems.append(f"{name}: the folder of {path} cannot be written; check its permissions or choose another path")
    if problems:
        raise InvalidInput("nothing was written:\n" + "\n".join(f"  - {p}" for p in problems))


def ending_problem(path: Path, endings: Sequence[str]) -> str:
    """What is wrong with the ending of a path; empty if nothing is. The name of a folder has no ending of letters alone.

    Args:
        path: that will be written.
        endings: that it may have; `FOLDER` is one.
    """
    folder = FOLDER in endings and (path.is_dir() or not path.suffix[1:].isalpha())
    if (path.suffix and path.suffix in endings) or folder:
        return ""
    files = [ending for ending in endings if ending != FOLDER]
    expected = " or ".join([*([", ".join(files)] if files else []), *(["the name of a folder"] if FOLDER in endings else [])])
    return f"{path} ends in '{path.suffix}', expected {expected}; choose another path"


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve() or (first.exists() and second.exists() and first.samefile(second))


@contextmanager
def atomic_folder(path: Path, *, force: bool = False, stale: Iterable[str] = ()) -> Iterator[Path]:
    """A temporary folder beside `path`; on success its files appear in `path`, on failure it is removed and `path` stays as it was.

    Args:
        path: the folder; files in it that are not written again stay, `stale` ones apart.
        force: the folder may hold files, and those of the same names are replaced.
        stale: patterns of files of an earlier result, which are removed with `force` if they are not written again.

    Raises:
        InvalidInput: `path` is a file or, without `force`, a folder that is not empty; or it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise InvalidInput(f"{path} is a file; pass the path of a folder")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise InvalidInput(f"{path} is not empty; {FORCE}, or choose another folder")
    draft = path.resolve().with_name(f".{path.resolve().name}.{os.getpid()}.tmp")
    try:
        draft.mkdir()
        yield draft
        if not path.exists():
            os.rename(draft, path)
            return
        written = sorted(file.name for file in draft.iterdir())
        old = {file for pattern in stale for file in path.glob(pattern) if file.name not in written} if force else set()
        for name in written:
            os.replace(draft / name, path / name)
        for file in old:
            file.unlink()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}; check permissions and free space, or choose another folder") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
