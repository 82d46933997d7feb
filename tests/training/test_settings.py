"""Settings from plain dicts: every shipped configuration, and everything that can be wrong with one."""

from __future__ import annotations

import pytest

from graphalign.configuration import compose, names
from graphalign.errors import InvalidInput
from graphalign.training.settings import Settings, read_configuration, read_settings


@pytest.mark.parametrize("name", names("train"))
def test_shipped_configurations(name):
    content = {k: v for k, v in compose("train", name).items() if k not in ("zoo", "population", "out", "cache")}
    settings = read_settings(content)
    assert {f"{k}" for k in content} == set(Settings.__dataclass_fields__)
    assert settings.steps > 0


def test_overrides_reach_the_settings():
    content = compose("train", "digits", ["exclude.family=[mlp]", "limit.networks=20", "losses.unrolled=0.5", "families.cnn.pairs=3"])
    settings = read_settings({k: v for k, v in content.items() if k not in ("zoo", "population", "out", "cache")})
    assert settings.exclude.family == ("mlp",)
    assert settings.limit.networks == 20
    assert settings.losses.unrolled == 0.5
    assert settings.families["cnn"].pairs == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stepz": 3}, r"found the key 'stepz', expected some of steps, draws, minutes"),
        ({"steps": 0}, r"steps: found 0, expected at least 1"),
        ({"losses": {"kl": 1.0}}, r"losses: found 'kl', expected some of supervised, alignment"),
        ({"losses": {"unrolled": 0.0}}, r"losses: found no loss with a weight above 0"),
        ({"losses": {"lmc": "much"}}, r"losses: lmc: found 'much', expected a number"),
        ({"steps": "x", "seed": True}, r"(?s)steps: found 'x', expected a whole number up to 2147483648.*seed: found True, expected a whole number"),
        ({"steps": 10**30}, r"steps: found 1000000000000000000000000000000, expected a whole number up to 2147483648"),
        ({"seed": -1, "minutes": 0}, r"seed: found -1, expected at least 0; minutes: found 0, expected a number above 0, or null"),
        ({"limit": {"designs": "all"}}, r"limit: designs: found 'all', expected a whole number up to 2147483648 or null"),
        ({"exclude": {"family": "mlp"}}, r"exclude: family: found 'mlp', expected a list of which each entry is a text"),
        ({"unrolled": {"hard": 1, "lam": float("nan")}}, r"unrolled: hard: found 1, expected true or false; lam: found nan, expected a number"),
        ({"optimiser": {"rate": 0.0, "clip": -1}}, r"rate: found 0.0, expected a number above 0; clip: found -1, expected a number above 0"),
        ({"validation": {"every": 0, "groups": 0}}, r"validation: every: found 0, expected at least 1; groups: found 0, expected at least 1"),
        ({"prior": {"components": -1}}, r"prior: components: found -1, expected at least 1"),
        ({"engine": {"devices": "many"}}, r"engine: devices: found 'many', expected how many"),
        ({"families": "mlp"}, r"families: found 'mlp', expected a mapping of families of designs"),
        ({"families": {"rnn": {}}}, r"families: found 'rnn', expected some of mlp, cnn"),
        ({"losses": None}, r"losses: found null, expected a mapping"),
        ({"unrolled": {"steps": [0], "outer": "mse"}}, r"steps=\(0,\), expected numbers of at least 1; outer='mse', expected 'kl' or 'labels'"),
        ({"unrolled": {"data": 2.0, "perturbation": 0.0}}, r"data=2.0, expected a number from 0 to 1; perturbation=0.0, expected a number above 0"),
        ({"teacher": {"method": "oracle", "steps": 0}}, r"method='oracle', expected 'consensus' or 'sinkhorn'; steps=0, expected at least 1"),
        ({"optimiser": {"schedule": "linear"}}, r"optimiser: schedule: found 'linear', expected 'constant' or 'cosine'"),
        ({"families": {"mlp": {"pairs": 0}}}, r"families: found pairs=0, expected at least 1"),
        ({"aligner": {"candidates": 0}}, r"aligner: aligner: found candidates=0"),
    ],
)  # fmt: skip
def test_what_can_be_wrong(content, message):
    with pytest.raises(InvalidInput, match=message):
        read_settings(content)


def test_folders_are_read_beside_the_settings():
    folders, settings = read_configuration({"zoo": "here", "cache": None, "steps": 3})
    assert (folders.zoo, folders.out, folders.cache, settings.steps) == ("here", None, None, 3)
    with pytest.raises(InvalidInput, match="out: found 3, expected a text or null"):
        read_configuration({"out": 3})


def test_everything_wrong_is_said_at_once():
    with pytest.raises(InvalidInput, match=r"(?s)stepz.*schedule"):
        read_settings({"stepz": 1, "optimiser": {"schedule": "linear"}})
