"""Which networks are trained on, and which pairs of them a step gets."""

from __future__ import annotations

import pytest

from graphalign.errors import InvalidInput
from graphalign.training.sampling import Exclude, Limit, Sampler, Share, in_turns, select


def test_excluded_groups_are_left_out(zoo):
    train = zoo.select(split="train")
    assert {g.design.family for g in select(train, Exclude(family=("vgg", "siren")), Limit(), 0)} == {"mlp"}
    assert {g.section for g in select(train, Exclude(section=("train_mlp",)), Limit(), 0)} == {"train_vgg", "train_siren"}
    with pytest.raises(InvalidInput, match=r"found no group of two networks or more"):
        select(train, Exclude(data=("digits",)), Limit(), 0)


def test_limits_take_the_families_in_turns(zoo):
    train = zoo.select(split="train")
    assert sorted(g.design.family for g in select(train, Exclude(), Limit(designs=3), 0)) == ["mlp", "siren", "vgg"]
    assert len(in_turns(train, None, 0)) == len(train)
    few = select(train, Exclude(family=("vgg", "siren")), Limit(networks=4), 0)
    assert [len(g.seeds) for g in few] == [2, 2]
    assert select(train, Exclude(), Limit(designs=4), 1) != select(train, Exclude(), Limit(designs=4), 2)
    with pytest.raises(InvalidInput, match=r"designs=0, expected at least 1; networks=1, expected at least 2"):
        Limit(designs=0, networks=1)


def test_draws_depend_on_seed_step_and_number_alone(zoo):
    groups = zoo.select(split="train")
    first, second = (Sampler(groups, {}, 5) for _ in range(2))
    for step in (0, 7):
        one, other = first.draw(step), second.draw(step)
        assert (one.group, one.pairs) == (other.group, other.pairs)
        assert one.generator.initial_seed() == other.generator.initial_seed()
    seeds = {Sampler(groups, {}, s).draw(k, i).generator.initial_seed() for s in (0, 1) for k in (0, 1) for i in (0, 1)}
    assert len(seeds) == 8


def test_pairs_are_different_networks_in_both_orders(zoo):
    sampler = Sampler(zoo.select(section="train_mlp"), {"mlp": Share(pairs=4)}, 0)
    drawn = [sampler.draw(step) for step in range(20)]
    pairs = {pair for draw in drawn for pair in draw.pairs}
    assert pairs == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert all(len(set(draw.pairs)) == 4 for draw in drawn)
    assert len({draw.group.name for draw in drawn}) == 3


def test_shares_give_the_frequencies_of_families(zoo):
    groups = zoo.select(split="train")
    families = {"mlp": Share(3.0), "vgg": Share(1.0), "siren": Share(0.0)}
    drawn = [Sampler(groups, families, 0).draw(step).group.design.family for step in range(200)]
    assert 120 < drawn.count("mlp") < 180
    assert drawn.count("siren") == 0
    with pytest.raises(InvalidInput, match=r"found a share of 0 for all of mlp, siren, vgg"):
        Sampler(groups, dict.fromkeys(families, Share(0.0)), 0)
    with pytest.raises(InvalidInput, match=r"share=-1, expected at least 0; pairs=0, expected at least 1"):
        Share(-1, pairs=0)
