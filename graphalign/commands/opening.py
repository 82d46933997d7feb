"""From the options of a command to networks and data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphalign.commands.session import Session

if TYPE_CHECKING:
    from graphalign.evaluation import Loader
    from graphalign.opened import Opened


def open_all(
    out: Session, paths: Sequence[Path], arch: str | None, text: str | None, spec: Path | None, data: Loader | None = None, device: str = "cpu",
    seed: int = 0,
) -> Opened:  # fmt: skip
    """Networks by the options that say what they are."""
    from graphalign.example_inputs import example_of
    from graphalign.opened import open_networks
    from graphalign.spec_format import load_spec

    out.progress("reading " + ", ".join(map(str, paths)))
    example = None if text is None else example_of(text, seed)
    return open_networks(paths, arch=arch, example_input=example, spec=None if spec is None else load_spec(spec), data=data, device=device)


def batches(name: str | None, root: Path | None, batch_size: int, split: str = "test") -> Loader | None:
    """Batches by the options that say what they are."""
    if name is None:
        return None
    from graphalign.named_data import named_batches

    return named_batches(name, split=split, root=root, batch_size=batch_size)


def files_of(opened: Opened, *others: Path | str | None) -> list[Path]:
    """All files that were read: those of networks, and other inputs as far as they are files."""
    networks = [file for checkpoint in opened.checkpoints for file in checkpoint.files]
    return networks + [Path(other).resolve() for other in others if other is not None and Path(other).is_file()]
