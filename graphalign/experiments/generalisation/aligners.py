"""The aligners that an experiment compares: where they come from, and what tells them apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.training.settings import BEST

UNTRAINED, SHIPPED = "untrained", "shipped"


@dataclass(frozen=True)
class Source:
    """Where an aligner comes from.

    Attributes:
        origin: "untrained", "shipped", the folder of a saved aligner, or that of a training run, whose best aligner it is.
        settings: fields of its configuration that are replaced.
    """

    origin: str
    settings: Mapping[str, Any]

    @property
    def exists(self) -> bool:
        """Whether there is an aligner to load."""
        return self.origin in (UNTRAINED, SHIPPED) or (self.folder / "config.json").is_file()

    @property
    def folder(self) -> Path:
        """Where `origin` has its files, if it is a folder."""
        best = Path(self.origin) / BEST
        return best if best.is_dir() else Path(self.origin)

    def load(self) -> Aligner:
        """The aligner.

        Raises:
            InvalidInput: the folder holds no aligner, or a setting is unknown.
            CorruptFile: its files cannot be read.
        """
        aligner = Aligner() if self.origin == UNTRAINED else Aligner.from_pretrained(None if self.origin == SHIPPED else self.folder)
        if self.settings:
            try:
                aligner.config = replace(aligner.config, **self.settings)
            except TypeError:
                known = ", ".join(f.name for f in fields(aligner.config))
                raise InvalidInput(f"aligner {self.origin}: found the settings {dict(self.settings)}, expected some of {known}") from None
        return aligner.eval()


def read_sources(content: Mapping[str, Any]) -> dict[str, tuple[Source, ...]]:
    """Sets of aligners by name, one aligner per training seed.

    A set is a list; an entry is "untrained", "shipped", a folder, or a mapping of `from` (one of these) and `settings`.

    Raises:
        InvalidInput: lists the entries that are something else.
    """
    sets: dict[str, tuple[Source, ...]] = {UNTRAINED: (Source(UNTRAINED, {}),)}
    problems = []
    for name, entries in content.items():
        found = []
        for entry in entries if isinstance(entries, list) else [entries]:
            origin, settings = (entry.get("from"), entry.get("settings") or {}) if isinstance(entry, Mapping) else (entry, {})
            extra = entry.keys() - {"from", "settings"} if isinstance(entry, Mapping) else ()
            if not isinstance(origin, str) or not isinstance(settings, Mapping) or extra:
                problems.append(f"{name}: found {entry!r}")
                continue
            found.append(Source(origin, settings))
        sets[name] = tuple(found)
    if problems:
        raise InvalidInput(
            "aligners:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nexpected untrained, shipped, a folder, or {from: one of these, settings: {...}}"
        )  # fmt: skip
    return sets


def digest(aligner: Aligner) -> str:
    """A hash of the configuration and weights of an aligner."""
    found = hashlib.sha256(json.dumps(asdict(aligner.config), sort_keys=True, default=str).encode())
    for name, tensor in sorted(aligner.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
