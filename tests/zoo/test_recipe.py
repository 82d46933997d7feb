import json
import re
from dataclasses import fields, replace

import pytest

from graphalign.errors import InvalidInput
from graphalign.zoo.recipe import Recipe, from_json

CHANGES = {
    "data": "mnist", "images": 7, "epochs": 9, "batch": 8, "optimiser": "sgd", "rate": 0.1, "weight_decay": 0.2, "schedule": "cosine",
    "initialisation": "xavier", "augmentation": "flip", "signal": 0,
}  # fmt: skip


def test_a_recipe_survives_json():
    recipe = Recipe(**CHANGES)
    assert from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_every_field_is_in_the_name():
    recipe = Recipe("digits")
    assert CHANGES.keys() == {f.name for f in fields(Recipe)}
    assert len({recipe.name, *(replace(recipe, **{k: v}).name for k, v in CHANGES.items())}) == len(CHANGES) + 1


def test_everything_wrong_is_reported_at_once():
    wrong = dict.fromkeys(CHANGES, -1) | {"data": ""}
    with pytest.raises(InvalidInput) as error:
        from_json(wrong)
    for field in CHANGES:
        assert re.search(rf"- {field}: found (-1|''), expected", str(error.value)), field


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("data", "../digits", "one of digits, mnist"), ("images", 1 << 32, "a whole number from 1 to 2147483648"), ("epochs", 10**30, "from 1 to 1000000"),
        ("batch", 10**30, "from 1 to 2147483648"), ("rate", 10**400, "above 0, at most 1e\\+06"), ("rate", float("inf"), "above 0, at most"),
        ("weight_decay", float("nan"), "a number from 0 to 1e"), ("signal", 10**30, "at most 2147483648"), ("initialisation", ["he"], "one of he"),
    ],
)  # fmt: skip
def test_values_out_of_all_bounds_are_refused(field, value, expected):
    with pytest.raises(InvalidInput, match=f"{field}: found .*, expected .*{expected}"):
        Recipe(**{"data": "digits", field: value})


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(InvalidInput, match=r"found the fields \['lr'\], expected some of"):
        from_json({"data": "digits", "lr": 1})
    with pytest.raises(InvalidInput, match="found no field data"):
        from_json({})
