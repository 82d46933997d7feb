import pytest

from graphalign.configuration import CONFIGS, compose, names
from graphalign.errors import InvalidInput
from graphalign.zoo.sections import read_sections


@pytest.mark.parametrize("name", names("zoo"))
def test_every_population_composes_and_is_sound(name):
    content = compose("zoo", name)
    assert content.keys() == {"folder", "only", "part", "sections"}
    splits = {section.split for section in read_sections(content["sections"])}
    assert splits == {"train", "validation", "test"}


def test_the_configurations_of_a_group_are_listed():
    assert {"digits", "small", "full"} <= set(names("zoo"))
    assert names("nowhere") == []


def test_overrides_change_add_and_remove():
    changes = ["sections.train_mlp.designs=3", "+sections.train_mlp.seed=5", "~sections.train_siren", "folder=a/b"]
    content = compose("zoo", "digits", changes)
    assert (content["sections"]["train_mlp"]["designs"], content["sections"]["train_mlp"]["seed"]) == (3, 5)
    assert "train_siren" not in content["sections"]
    assert content["folder"] == "a/b"
    assert type(content) is type(content["sections"]) is dict


def test_a_file_anywhere_can_be_given(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\nb: {c: [2, 3]}\n")
    assert compose("zoo", str(tmp_path / "mine.yaml"), ["b.c=[4]"]) == {"a": 1, "b": {"c": [4]}}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("huge", [], "config: found 'huge', expected one of digits, full, small .of the group zoo., or the path of a .yaml file"),
        ("no/such.yaml", [], "config: found 'no/such.yaml', expected one of"),
        ("digits", ["sections.nope=3"], "config digits with sections.nope=3: .*nope.*expected overrides key=value of keys that are in"),
        ("digits", ["sections.train_mlp.seeds=[1"], "config digits with sections.train_mlp.seeds=.*no viable alternative"),
    ],
)
def test_what_does_not_compose_is_refused(name, overrides, message):
    with pytest.raises(InvalidInput, match=message):
        compose("zoo", name, overrides)


def test_damaged_yaml_and_missing_values_are_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(InvalidInput, match="bad.yaml"):
        compose("zoo", str(tmp_path / "bad.yaml"))
    (tmp_path / "open.yaml").write_text("a: ???\n")
    with pytest.raises(InvalidInput, match="a"):
        compose("zoo", str(tmp_path / "open.yaml"))


def test_configurations_are_where_the_package_is():
    assert (CONFIGS / "zoo" / "digits.yaml").is_file()
