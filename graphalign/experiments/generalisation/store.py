"""Measurements on disk, one small JSON each, so that a run that was stopped goes on where it was and several may share the work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphalign.files import atomic_write


@dataclass(frozen=True)
class Store:
    """A folder of measurements.

    Attributes:
        folder: made when something is written.
        again: whether measurements are taken again although they are there.
    """

    folder: Path
    again: bool = False

    def read(self, name: str, key: Any) -> dict[str, Any] | None:
        """The measurement of a name, or None if there is none that was made with an equal key."""
        file = self._file(name, key)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing, or cut off by something that was not this class: measured again
            return None
        return content["found"] if isinstance(content, Mapping) and content.get("key") == _plain(key) else None

    def find(self, name: str, key: Any) -> dict[str, Any] | None:
        """As `read`, and None if everything is to be measured again."""
        return None if self.again else self.read(name, key)

    def write(self, name: str, key: Any, found: Mapping[str, Any]) -> None:
        """Keeps a measurement with what it depends on, replacing an earlier one of the same name and key.

        Raises:
            InvalidInput: the folder cannot be written.
        """
        file = self._file(name, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, force=True) as draft:
            draft.write_text(json.dumps({"key": _plain(key), "found": found}) + "\n", encoding="utf-8")

    def _file(self, name: str, key: Any) -> Path:
        short = hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / f"{name}-{short}.json"


def _plain(key: Any) -> Any:
    """A key as JSON gives it back: tuples are lists, names are strings."""
    return json.loads(json.dumps(key))
