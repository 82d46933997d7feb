from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graphalign.converters.chain import chain_spec
from graphalign.data import digits
from graphalign.experiments import federated_rounds
from graphalign.experiments.federated_rounds import WAYS, Settings, initial, orders, run_rounds, split_by_class
from graphalign.federated import federated_average


def test_every_example_has_one_client_and_classes_are_uneven() -> None:
    classes = digits("train").tensors[1]
    parts = split_by_class(classes, 10, 0.3, seed=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(classes)))
    assert min(map(len, parts)) >= 20
    assert [p.tolist() for p in parts] == [p.tolist() for p in split_by_class(classes, 10, 0.3, seed=0)]
    largest = [classes[p].bincount(minlength=10).max().item() / len(p) for p in parts]
    assert sum(largest) / 10 > 0.35
    even = split_by_class(classes, 10, 1000.0, seed=0)
    assert max(classes[p].bincount(minlength=10).max().item() / len(p) for p in even) < 0.2


def test_orders_are_those_of_the_library() -> None:
    states = [dict(initial(k).state_dict()) for k in range(3)]
    spec = chain_spec(states[0])
    for name, reference in (("weight", 0), ("joint", "universe")):
        found = federated_average(states, [1, 2, 3], align=orders(WAYS[name], spec, states, None, 0))
        expected = federated_average(states, [1, 2, 3], align="weight", reference=reference)
        assert all(torch.allclose(t, expected[key], atol=1e-6) for key, t in found.items()), name
    assert orders(WAYS["plain"], spec, states, None, 0) is None


def test_clients_that_go_on_from_the_average_do_so() -> None:
    settings = Settings(clients=2, rounds=2, epochs=1, concentration=10.0, seeds=1)
    plain = {"plain": WAYS["plain"]}
    adopted, kept = (run_rounds(plain, adopt, settings, 0)["plain"] for adopt in (True, False))
    assert adopted[0] == kept[0]
    assert adopted[1] != kept[1]
    assert adopted == run_rounds(plain, True, settings, 0)["plain"]


def test_quick_run_writes_results_tables_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    federated_rounds.main(["--quick", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "federated.json").read_text())
    assert results["rows"].keys() == {"adopt", "keep"}
    assert all(len(seeds) == 1 and len(seeds[0]) == 2 for ways in results["rows"].values() for seeds in ways.values())
    assert f"{100 * results['rows']['keep']['joint'][0][1]['accuracy']:.1f}" in out
    assert (tmp_path / "federated.md").read_text().startswith("# Federated averaging")
    assert (tmp_path / "federated.png").read_bytes().startswith(b"\x89PNG")
