"""Networks on disk: found by file or folder, read with their metadata, and written in the same format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.files import INDEX, ORDER, AnyPath, atomic_write, load_state, read_metadata, save_state
from graphalign.folders import FOLDER, atomic_folder, ending_problem
from graphalign.mapped import read_index

NAMES = (
    "model.safetensors", "model.safetensors.index.json", "diffusion_pytorch_model.safetensors", "pytorch_model.bin",
)  # fmt: skip
"""What the weights in a folder are called, in the order in which they are looked for."""

MERGE_REPORT = "merge_report.json"
MODEL, WEIGHTS = "model.safetensors", ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
ENDINGS = (".safetensors", ".pt", ".pth", FOLDER)
"""What a network is written to."""
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model")
"""Files of a model's folder that belong to a network made of it too: configuration and tokeniser."""
SHARD_BYTES = 5_000_000_000
"""Most bytes of tensors in one file of a folder; larger networks are written as shards with an index."""


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A network on disk.

    Attributes:
        path: as it was given: a file or a folder.
        files: all files that were read, absolute.
        state: tensors by key, mapped from the files.
        metadata: text entries of a safetensors file, those that say how it was written apart.
        names: names in the files by key, where they differ.
    """

    path: Path
    files: tuple[Path, ...]
    state: dict[str, Tensor]
    metadata: dict[str, str]
    names: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        types = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in self.state.values()}))
        return f"Checkpoint({str(self.path)!r}, {len(self.state)} tensors, {sum(t.numel() for t in self.state.values()):,} entries, {types})"

    def renamed(self, names: Mapping[str, str]) -> Checkpoint:
        """The checkpoint under other keys.

        Args:
            names: of tensors in the files, by their new key; others keep theirs.
        """
        keys = {name: key for key, name in names.items()}
        return replace(self, state={keys.get(name, name): tensor for name, tensor in self.state.items()}, names=names)

    def as_stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by key under the names that they have in the files."""
        return {self.names.get(key, key): tensor for key, tensor in state.items()}

    @property
    def folder(self) -> Path | None:
        """The folder, if the path is one."""
        return self.path if self.path.is_dir() else None

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return sum(t.numel() * t.element_size() for t in self.state.values())


def read_checkpoint(path: AnyPath) -> Checkpoint:
    """A network in a file or folder; nothing in it is run.

    Args:
        path: any file that `graphalign.load_state` reads, or a folder in the layout of Hugging Face with model.safetensors, shards with
            model.safetensors.index.json, or pytorch_model.bin.

    Raises:
        InvalidInput: no such file, or a folder without weights or with more than one file that could be meant.
        CorruptFile: as `graphalign.load_state`.
    """
    found = _find(Path(path))
    state = load_state(found)
    files = [found]
    if found.name.endswith(INDEX):
        files += [found.parent / name for name in dict.fromkeys(read_index(found).values())]
    metadata = next((m for file in files if (m := read_metadata(file))), {})
    kept = {key: value for key, value in metadata.items() if key not in ("format", ORDER)}
    return Checkpoint(Path(path), tuple(file.resolve() for file in files), state, kept)


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    weights = sorted(p for p in path.iterdir() if p.suffix == ".safetensors" or p.name.endswith(INDEX))
    if len(weights) == 1:
        return weights[0]
    found = ", ".join(p.name for p in weights[:8]) or "none"
    raise InvalidInput(f"{path}: found the weights {found}, expected one of {', '.join(NAMES)}; pass the path of the file")


def write_checkpoint(
    state: Mapping[str, Tensor], path: AnyPath, metadata: Mapping[str, str] | None = None, *, force: bool = False,
    shard_bytes: int = SHARD_BYTES, beside: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Writes a network so that it appears complete or not at all, and returns the paths of the files.

    Args:
        state: tensors by key, in their types.
        path: ends in .safetensors, or in .pt or .pth for a file of `torch.save` (which has no metadata); otherwise a folder, in which
            model.safetensors is written, or shards with an index in the layout of Hugging Face.
        metadata: text entries of the safetensors files.
        force: replace what is there.
        shard_bytes: most bytes of tensors in one file of a folder.
        beside: a folder whose configuration and tokeniser go into a folder too.

    Raises:
        InvalidInput: another ending, what is there may not be replaced, or the path cannot be written.
    """
    target = Path(path)
    if problem := ending_problem(target, ENDINGS):
        raise InvalidInput(problem)
    if target.suffix in (".pt", ".pth"):
        with atomic_write(target, force=force) as draft:
            torch.save({key: tensor.detach().cpu().clone() for key, tensor in state.items()}, draft)
        return [target]
    if target.suffix == ".safetensors":
        save_state(state, target, metadata, force)
        return [target]
    with atomic_folder(target, force=force, stale=WEIGHTS) as draft:
        if beside is not None:
            copy_beside(beside, draft)
        names = write_shards(state, draft, metadata, shard_bytes)
    return [target / name for name in names]


def copy_beside(folder: Path, target: Path) -> None:
    """Copies what belongs to the weights in a folder: configuration and tokeniser, not an index or a report of a merge."""
    for file in sorted(file for pattern in BESIDE for file in folder.glob(pattern)):
        if file.is_file() and not file.name.endswith(".index.json") and file.name != MERGE_REPORT:
            shutil.copyfile(file, target / file.name)


def write_shards(state: Mapping[str, Tensor], folder: Path, metadata: Mapping[str, str] | None = None, shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Writes model.safetensors, or shards and their index if it were larger than `shard_bytes`, and returns the names of the files.

    Raises:
        InvalidInput: the folder cannot be written, or holds such files.
    """
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][key] = tensor
        filled += size
    if len(shards) == 1:
        save_state(state, folder / MODEL, metadata)
        return [MODEL]
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_state(shard, folder / name, metadata)
    where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(t.numel() * t.element_size() for t in state.values())
    with atomic_write(folder / NAMES[1]) as draft:
        draft.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": {key: where[key] for key in state}}, indent=2), encoding="utf-8")
    return [*names, NAMES[1]]
