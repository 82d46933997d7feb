"""Other implementations of alignment methods: which, where they are, and how to get them.

Both packages are imported as "rebasin", so each gets a folder of its own, which only the process that measures it has on its path.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from graphalign.errors import GraphAlignError, InvalidInput

VARIABLE = "GRAPHALIGN_PEERS"


@dataclass(frozen=True)
class Peer:
    """A package that does what one of our methods does.

    Attributes:
        name: of its distribution, and of its folder.
        requirements: what pip is told, without dependencies: torch, scipy and tqdm are there already.
        source: paper of the method.
    """

    name: str
    requirements: tuple[str, ...]
    source: str

    def install_command(self, folder: Path) -> list[str]:
        """What installs it into its own folder inside `folder`."""
        return [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder / self.name), *self.requirements]

    def version(self, folder: Path) -> str | None:
        """The version inside `folder`; None if it is not there."""
        found = [d.version for d in distributions(path=[str(folder / self.name)]) if d.name == self.name]
        return found[0] if found else None


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("rebasin", ("rebasin==0.0.47", "torchview==0.2.7", "graphviz==0.21"), "Ainsworth et al. 2023, arXiv 2209.04836"),
        Peer("sinkhorn-rebasin", ("sinkhorn-rebasin==0.0.2", "torchviz==0.0.3", "graphviz==0.21"), "Pena et al. 2023, arXiv 2212.12042"),
    )
}  # fmt: skip


def find_peers(folder: Path | None) -> dict[str, str]:
    """Versions of the peers in a folder, by name; empty without a folder.

    Raises:
        InvalidInput: the folder lacks some of them; says how to install them.
    """
    if folder is None:
        return {}
    versions = {name: peer.version(folder) for name, peer in PEERS.items()}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        commands = [" ".join(["pip", *PEERS[name].install_command(folder)[3:]]) for name in missing]
        raise InvalidInput(
            f"--peers {folder}: found no {' and no '.join(missing)} there, expected one folder for each; "
            "install them with --install, or by\n" + "\n".join(f"  {command}" for command in commands)
        )
    return {name: version for name, version in versions.items() if version is not None}


def install_peers(folder: Path, names: Sequence[str] = tuple(PEERS)) -> None:
    """Installs the peers that a folder lacks; the others are left as they are.

    Raises:
        GraphAlignError: pip failed; with the end of what it said.
    """
    for name in names:
        if PEERS[name].version(folder) is None:
            done = subprocess.run(PEERS[name].install_command(folder), capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                raise GraphAlignError(f"bench --install: pip could not install {name} into {folder / name}: {reason}")
