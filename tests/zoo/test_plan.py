import pytest

from graphalign.errors import InvalidInput
from graphalign.zoo.plan import Plan, read_plan
from graphalign.zoo.sections import read_sections

from .populations import CONTENT


def test_a_plan_holds_what_the_configuration_says():
    sections = tuple(read_sections(CONTENT))
    assert read_plan({"sections": CONTENT}) == Plan(sections, "zoo", None, (1, 1))
    given = {"sections": CONTENT, "folder": "here", "only": "train", "part": "2/3"}
    assert read_plan(given) == Plan(sections, "here", "train", (2, 3))


def test_everything_wrong_is_reported_at_once():
    with pytest.raises(InvalidInput) as error:
        read_plan({"folder": 3, "only": {}, "part": "1 of 2", "sections": {"train": 3}, "extra": 1, 3: 4})
    for message in (
        "folder: found 3, expected a name, or null", "only: found {}, expected a name, or null", "part: found '1 of 2', expected i/n such as 1/2",
        "train: found 3, expected a mapping", "found the key 'extra', expected some of folder, only, part, sections", "found the key 3, expected",
    ):  # fmt: skip
        assert message in str(error.value)


@pytest.mark.parametrize("part", ["1", "/", "1/x", "-1/2", 1, "9999999999/1"])
def test_parts_are_two_numbers(part):
    with pytest.raises(InvalidInput, match="part: found .*, expected i/n"):
        read_plan({"sections": CONTENT, "part": part})
