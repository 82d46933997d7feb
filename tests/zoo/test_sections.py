import copy
import re

import pytest

from graphalign.errors import InvalidInput
from graphalign.zoo.sections import read_sections

from .populations import CONTENT


def changed(section, **values):
    content = copy.deepcopy(CONTENT)
    content[section] = {k: v for k, v in {**content[section], **values}.items() if v is not None}
    return content


def by_name(content):
    return {section.name: section for section in read_sections(content)}


def test_sections_hold_distinct_pairs_of_designs_and_recipes():
    sections = by_name(CONTENT)
    assert list(sections) == list(CONTENT)
    assert [len(s.members) for s in sections.values()] == [3, 2, 2]
    for section in sections.values():
        assert len({(d.name, r.name) for d, r in section.members}) == len(section.members)
    assert sections["train"].seeds == (0, 1, 2)
    assert read_sections(CONTENT) == list(sections.values())


def test_more_designs_leave_the_first_ones_as_they_are():
    assert by_name(changed("train", designs=5))["train"].members[:3] == by_name(CONTENT)["train"].members


def test_a_section_can_reuse_designs_with_other_seeds():
    sections = by_name(CONTENT)
    assert sections["in_distribution"].members == sections["train"].members[:2]
    assert sections["in_distribution"].seeds == (100, 101)


def test_a_section_can_reuse_designs_with_another_recipe():
    members = by_name(changed("in_distribution", recipe={"epochs": 7}))["in_distribution"].members
    train = by_name(CONTENT)["train"].members
    assert [d for d, _ in members] == [d for d, _ in train[:2]]
    assert {(r.epochs, r.images) for _, r in members} == {(7, 200)}


def test_designs_of_other_sections_can_be_excluded():
    content = copy.deepcopy(CONTENT)
    content["validation"] = {**content["train"], "split": "validation", "unlike": "train", "first_seed": 50}
    sections = by_name(content)
    assert not {d for d, _ in sections["train"].members} & {d for d, _ in sections["validation"].members}


def test_seed_changes_the_draws():
    drawn = {by_name(changed("train", seed=seed, designs=4))["train"].members for seed in range(4)}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"split": "dev"}, "train: split: found 'dev', expected one of train, validation, test"),
        ("train", {"seeds": 0, "designs": None}, "(?s)train: seeds: found 0, expected.*train: designs: found None, expected a whole number"),
        ("train", {"first": 3}, "train: found the key 'first', expected some of split, design"),
        ("train", {"recipe": None}, "train: recipe: found None, expected a mapping"),
        ("train", {"recipe": {"data": "digits", "lr": 3}}, "train: found the field 'lr', expected some of data"),
        ("train", {"designs_of": "signals"}, "train: found both design and designs_of"),
        ("train", {"unlike": "nowhere"}, "train: found a reference to 'nowhere', expected a section above: there is none"),
        ("in_distribution", {"designs_of": "later"}, "in_distribution: found a reference to 'later', expected a section above: train, signals"),
        ("in_distribution", {"designs": 9}, "in_distribution: designs: found 9, expected at most the 3 of train"),
        ("train", {"designs": 999}, "train: designs: found [0-9]+ different ones, expected 999; lower designs"),
        ("signals", {"recipe": {"data": "digits", "epochs": [1, 2]}}, "signals: recipe .* of siren-8-w30: signal: found None, expected the number"),
        ("train", {"designs": 10**30}, "train: designs: found 10{30}, expected a whole number from 1 to 100000"),
        ("train", {"designs": 10_000, "seeds": 11}, r"train: found 110000 networks \(designs times seeds\), expected at most 100000; divide the section"),
        ("in_distribution", {"designs": None, "seeds": 50_000}, "in_distribution: found 150000 networks"),
        ("in_distribution", {"recipe": {"epochs": [2, 3, 0]}}, "in_distribution: epochs: found 0, expected"),
        ("in_distribution", {"designs_of": ["train"]}, r"in_distribution: designs_of: found \['train'\], expected the name of a section above"),
        ("train", {"unlike": 4.5}, "train: unlike: found 4.5, expected names of sections above"),
        ("train", {"unlike": [{}]}, "train: found a reference to {}, expected a section above"),
        ("train", {"design": {"family": ["mlp"]}}, r"train: family: found \['mlp'\], expected one of mlp"),
        ("train", {"designs": 1, "design": {"family": "mlp", "depth": 200}}, "train: mlp-32-32.*: found a name of .* bytes, expected at most 200; use fewer"),
        ("in_distribution", {"first_seed": 2}, r"in_distribution: mlp-.* the seeds \[2\] is in train too; change first_seed"),
    ],
)
def test_wrong_sections_are_refused(section, values, message):
    with pytest.raises(InvalidInput) as error:
        read_sections(changed(section, **values))
    assert re.search(message, str(error.value)), error.value


def test_everything_wrong_is_reported_at_once():
    content = changed("train", split="dev")
    content["signals"]["seeds"] = -1
    content["a b"] = 3
    with pytest.raises(InvalidInput, match="(?s)train: split.*signals: seeds.*a b: found 3, expected a mapping"):
        read_sections(content)
    with pytest.raises(InvalidInput, match="found no sections"):
        read_sections({})
    with pytest.raises(InvalidInput, match=r"sections: found \[3\], expected a mapping of sections by name"):
        read_sections([3])
