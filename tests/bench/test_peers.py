"""Other people's packages: found, missing, installed; and measured, where they are (environment variable GRAPHALIGN_PEERS)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphalign.bench.pairs import make_pair
from graphalign.bench.peers import PEERS, VARIABLE, find_peers, install_peers
from graphalign.bench.processes import Job, measure
from graphalign.errors import GraphAlignError, InvalidInput

FOLDER = os.environ.get(VARIABLE)
INSTALLED = pytest.mark.skipif(not FOLDER, reason=f"{VARIABLE} names no folder; run: graphalign bench methods --quick --install --peers FOLDER")


def pretend(folder: Path, name: str, version: str) -> None:
    """What pip leaves of a package that can be imported as rebasin."""
    (folder / name / "rebasin").mkdir(parents=True)
    (folder / name / "rebasin" / "__init__.py").touch()
    info = folder / name / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_no_folder_no_peers() -> None:
    assert find_peers(None) == {}


def test_every_peer_has_a_folder_of_its_own_and_fixed_versions() -> None:
    for name, peer in PEERS.items():
        command = peer.install_command(Path("x"))
        assert command[command.index("--target") + 1] == str(Path("x") / name)
        assert all("==" in requirement for requirement in peer.requirements)
        assert peer.requirements[0].startswith(f"{name}==")


def test_missing_peers_are_all_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        find_peers(tmp_path / "nowhere")
    message = str(caught.value)
    assert "found no rebasin and no sinkhorn-rebasin there" in message
    assert "install them with --install, or by" in message
    assert f"pip install --no-deps --target {tmp_path / 'nowhere' / 'rebasin'} rebasin==0.0.47 torchview==0.2.7 graphviz==0.21" in message
    pretend(tmp_path, "rebasin", "0.0.47")
    with pytest.raises(InvalidInput, match="found no sinkhorn-rebasin there"):
        find_peers(tmp_path)
    pretend(tmp_path, "sinkhorn-rebasin", "0.0.2")
    assert find_peers(tmp_path) == {"rebasin": "0.0.47", "sinkhorn-rebasin": "0.0.2"}


def test_two_packages_in_one_folder_are_not_both_there(tmp_path: Path) -> None:
    pretend(tmp_path, "rebasin", "0.0.47")
    (tmp_path / "sinkhorn-rebasin").symlink_to(tmp_path / "rebasin")
    with pytest.raises(InvalidInput, match="found no sinkhorn-rebasin there"):
        find_peers(tmp_path)


def test_peers_that_are_there_are_not_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PEERS:
        pretend(tmp_path, name, "0.0.1")
    before = sorted(p.stat().st_mtime_ns for p in tmp_path.rglob("*"))
    monkeypatch.setattr(subprocess, "run", None)  # a call of pip would fail
    install_peers(tmp_path)
    assert sorted(p.stat().st_mtime_ns for p in tmp_path.rglob("*")) == before


def test_what_pip_says_when_it_fails_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", sys.executable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(GraphAlignError, match=r"pip could not install rebasin into .*rebasin: .*(No matching distribution|No module named pip)"):
        install_peers(tmp_path / "peers", ["rebasin"])


def one(implementation: str, **options: object) -> tuple[float, float, dict[str, object]]:
    pair = make_pair("mlp", (8, 12, 12, 3), 0.0, seed=0)
    arguments = {
        "implementation": implementation, "kind": pair.kind, "sizes": pair.sizes, "options": options, "repetitions": 1, "budget": 60,
    }  # fmt: skip
    assert FOLDER is not None
    (result,) = measure([Job("alignment", arguments, {"a": pair.a, "b": pair.b})], paths=[Path(FOLDER).resolve() / implementation])
    assert "error" not in result.facts, result.facts
    moved = result.states["moved0"]
    return pair.recovered(moved), pair.change_of_function(moved), dict(result.facts)


@INSTALLED
def test_rebasin_is_measured() -> None:
    recovered, change, facts = one("rebasin")
    assert recovered == 1.0
    assert change < 1e-10
    assert set(facts["wall"]) == {"tracing", "matching"}  # type: ignore[call-overload]


@INSTALLED
def test_sinkhorn_rebasin_is_measured_until_it_is_right_or_out_of_steps() -> None:
    recovered, change, facts = one("sinkhorn-rebasin", rate=1.0, limit=60)
    assert recovered == 1.0
    assert change < 1e-10
    assert 1 < facts["steps"] < 60  # type: ignore[operator]
    recovered, _, facts = one("sinkhorn-rebasin", rate=1.0, limit=1)
    assert recovered < 1.0
    assert facts["steps"] == 1
