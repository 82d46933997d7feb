from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.aligners import Source, digest, read_sources


def test_sets_of_aligners(tmp_path: Path) -> None:
    changed = Aligner()
    with torch.no_grad():
        changed.forward_weight.fill_(2.5)
    changed.save_pretrained(tmp_path / "seed0")
    sets = read_sources({"trained": [str(tmp_path / "seed0"), "shipped"], "few": {"from": str(tmp_path / "seed0"), "settings": {"rounds": 0}}})
    assert set(sets) == {"untrained", "trained", "few"}
    assert sets["trained"][0].load().forward_weight.item() == 2.5
    few = sets["few"][0].load()
    assert few.config.rounds == 0
    assert few.forward_weight.item() == 2.5
    assert sets["trained"][0].exists
    assert not Source(str(tmp_path / "seed1"), {}).exists


def test_the_folder_of_a_run_stands_for_its_best_aligner(tmp_path: Path) -> None:
    Aligner().save_pretrained(tmp_path / "run" / "best")
    (tmp_path / "run" / "config.json").write_text("{}")
    source = Source(str(tmp_path / "run"), {})
    assert source.exists
    assert digest(source.load()) == digest(Aligner())


def test_the_digest_tells_aligners_apart() -> None:
    first, second, third = Aligner(), Aligner(), Source("untrained", {"rounds": 7}).load()
    assert digest(first) == digest(second)
    assert digest(first) != digest(third)
    with torch.no_grad():
        second.backward_weight.add_(1e-6)
    assert digest(first) != digest(second)


def test_wrong_sources_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"(?s)a: found 3.*b: found \{'folder': 'x'\}.*expected untrained, shipped, a folder"):
        read_sources({"a": [3], "b": [{"folder": "x"}]})
    with pytest.raises(InvalidInput, match=r"found the settings \{'laps': 2\}, expected some of .*rounds"):
        Source("untrained", {"laps": 2}).load()
