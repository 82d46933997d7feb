from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.protocol import Protocol, read_protocols, round_robin


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9, 16])
def test_every_pair_comes_once(count: int) -> None:
    found = round_robin(count, 10_000)
    assert sorted(found) == list(combinations(range(count), 2))


@pytest.mark.parametrize("count", [4, 5, 8, 9, 16])
def test_networks_are_used_equally(count: int) -> None:
    full = count // 2
    for pairs in range(1, count * (count - 1) // 2 + 1):
        used = Counter(network for pair in round_robin(count, pairs) for network in pair)
        spread = max(used.values()) - min(used[network] for network in range(count))
        assert spread <= 1 + count % 2
        if count % 2 == 0 and pairs % full == 0:
            assert spread == 0


def test_fewer_pairs_are_the_first_of_more() -> None:
    assert round_robin(6, 4) == round_robin(6, 15)[:4]


def test_wrong_settings_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"points=2, expected .* at least 3; inputs=0, expected .* at least 1"):
        Protocol(points=2, inputs=0)
    with pytest.raises(InvalidInput, match="tuning_pairs=9, expected at most pairs=8"):
        Protocol(tuning_pairs=9)
    with pytest.raises(InvalidInput, match=r"found 'pears', expected some of pairs, tuning_pairs"):
        read_protocols({"pears": 1}, {})
    with pytest.raises(InvalidInput, match=r"found 'pears', expected some of pairs, tuning_pairs"):
        read_protocols({}, {"vgg": {"pears": 1}})


def test_families_change_what_they_name() -> None:
    protocol, own = read_protocols({"pairs": 5, "points": 9}, {"vgg": {"points": 5}})
    assert (protocol, own) == (Protocol(pairs=5, points=9), {"vgg": Protocol(pairs=5, points=5)})
