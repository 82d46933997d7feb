from collections import Counter
from itertools import islice

import pytest

from graphalign.errors import InvalidInput
from graphalign.zoo.sampling import SAMPLERS, Draws, designs, recipes


def take(draw, field, count):
    return [draw(field) for _ in range(count)]


def test_a_list_is_dealt_like_a_deck():
    values = take(Draws({"a": [1, 2, 3, 3]}, {"a": 0}, "s"), "a", 40)
    for i in range(0, 40, 4):
        assert Counter(values[i : i + 4]) == {1: 1, 2: 1, 3: 2}
    assert values[:4] != values[4:8] or values[4:8] != values[8:12]


def test_a_range_is_log_uniform_over_multiples():
    values = take(Draws({"a": {"low": 10, "high": 160, "step": 10}}, {"a": 0}, "s"), "a", 2000)
    assert set(values) <= set(range(10, 161, 10))
    assert {10, 160} <= set(values)
    below = sum(v <= 40 for v in values) / len(values)
    assert 0.48 < below < 0.58  # log-uniform: half of it lies below the geometric mean, 40


def test_a_range_keeps_to_the_multiples_inside():
    assert set(take(Draws({"a": {"low": 5, "high": 27, "step": 8}}, {"a": 0}, "s"), "a", 200)) == {8, 16, 24}


def test_rates_have_three_digits():
    values = take(Draws({"a": {"low": 1e-4, "high": 1e-2}}, {"a": 0}, "s"), "a", 200)
    assert all(1e-4 <= v <= 1e-2 and v == float(f"{v:.3g}") for v in values)
    assert 60 < sum(v < 1e-3 for v in values) < 140


def test_fields_and_seeds_draw_independently_and_alike():
    deck = {"a": list(range(50)), "b": list(range(50))}
    draws = {seed: Draws(deck, {"a": 0, "b": 0}, seed) for seed in ("s", "t")}
    a, b, other = take(draws["s"], "a", 50), take(draws["s"], "b", 50), take(draws["t"], "a", 50)
    assert a != b
    assert a != other
    assert take(Draws({"a": deck["a"]}, {"a": 0, "b": 0}, "s"), "a", 50) == a


@pytest.mark.parametrize("value", [{"low": 0, "high": 2}, {"low": 3, "high": 2}, {"low": 9, "high": 15, "step": 8}, {"lo": 1, "high": 2}, []])
def test_a_range_that_holds_nothing_is_refused(value):
    with pytest.raises(InvalidInput, match="a: found .*expected a value, a list of values or {low, high, step}"):
        Draws({"a": value}, {"a": 0}, "s")


def test_unknown_fields_are_refused():
    with pytest.raises(InvalidInput, match="found the field 'q', expected some of a, b"):
        Draws({"q": 1}, {"a": 0, "b": 0}, "s")
    with pytest.raises(InvalidInput, match="family: found 'rnn', expected one of mlp"):
        next(designs({"family": "rnn"}, "s"))
    with pytest.raises(InvalidInput, match="profile: found 'wavy', expected one of constant, free, rising"):
        next(designs({"family": "mlp", "profile": "wavy"}, "s"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": [[8, 8], [8, 0]]}, r"widths: found \(8, 0\)"),
        ({"depth": [1, 10**30]}, "depth: found 1000000000000000000000000000000, expected a whole number from 0 to 1000"),
        ({"depth": 2, "profile": "rising", "width": [8, [[]]]}, "widths: found"),
        ({"depth": 2, "width": {"low": 8, "high": 10**6, "step": 8}}, r"widths: found \(1000000, 1000000\)"),
        ({"width": {"low": 8, "high": 10**400, "step": 8}}, "low <= high <= 1e\\+09"),
        ({"activation": ["relu", {}]}, "activation: found {}"),
    ],
)
def test_what_may_be_drawn_is_checked_before_it_is(given, message):
    with pytest.raises(InvalidInput, match=message):
        next(designs({"family": "mlp", **given}, "s"))


def test_every_value_of_a_recipe_is_checked_before_it_is_drawn():
    with pytest.raises(InvalidInput, match="epochs: found 0, expected"):
        next(recipes({"data": "digits", "epochs": [*range(1, 50), 0]}, "s"))


@pytest.mark.parametrize("family", SAMPLERS)
def test_every_family_has_defaults(family):
    assert next(designs({"family": family}, "s")).family == family


def test_profiles():
    width = {"low": 8, "high": 64, "step": 8}
    drawn = {p: [d.widths for d in islice(designs({"family": "mlp", "depth": 3, "width": width, "profile": p}, "s"), 20)] for p in
             ("constant", "free", "rising")}  # fmt: skip
    assert all(len(set(w)) == 1 for w in drawn["constant"])
    assert any(list(w) != sorted(w) for w in drawn["free"])
    assert all(list(w) == sorted(w) for w in drawn["rising"])
    assert any(len(set(w)) > 1 for w in drawn["rising"])


def test_everything_about_a_vgg_can_be_drawn():
    design = next(designs({
        "family": "vgg", "widths": [[8, 16]], "convolutions": 2, "hidden_layers": 2, "hidden": 12, "pool": 2, "norm": "batch", "activation": "gelu",
    }, "s"))  # fmt: skip
    assert design.name == "vgg-8.8-16.16-h12.12-p2-bn-gelu"


def test_recipes_are_drawn_field_by_field():
    drawn = list(islice(recipes({"data": ["digits", "mnist"], "epochs": [1, 2, 3]}, "s"), 6))
    assert Counter(r.data for r in drawn) == {"digits": 3, "mnist": 3}
    assert Counter(r.epochs for r in drawn) == {1: 2, 2: 2, 3: 2}
