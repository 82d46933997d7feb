import json
import re
from dataclasses import replace

import pytest
import torch

from graphalign.converters.trace import trace
from graphalign.errors import InvalidInput
from graphalign.verification import verify
from graphalign.zoo.design import CNN, FAMILIES, MLP, VGG, ResNet, from_json

from .populations import DESIGNS


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: d.name)
def test_a_design_survives_json(design):
    assert from_json(json.loads(json.dumps(design.to_json()))) == design


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: d.name)
def test_every_family_can_be_aligned(design):
    torch.manual_seed(0)
    x = torch.randn(3, 2) if design.family == "siren" else torch.randn(3, 1, 8, 8)
    network = design.build((1, 8, 8), 4).eval()
    assert network(x).shape == (3, 1 if design.family == "siren" else 4)
    assert trace(network, x).cells
    assert verify(network.double(), x.double()) < 1e-10


def test_every_family_is_tested():
    assert {design.family for design in DESIGNS} == set(FAMILIES)


def test_every_field_is_in_the_name():
    changes = [
        (MLP((8, 6)), {"widths": (86,), "activation": "silu"}),
        (CNN((4, 5)), {"channels": (45,), "hidden": 3, "kernel": 7, "activation": "tanh"}),
        (VGG(((3,), (4,))), {"stages": ((3, 4),), "hidden": (2,), "pool": 2, "norm": "batch", "activation": "gelu"}),
        (ResNet((1, 2)), {"repeats": (12,), "width": 3, "stem": "imagenet", "activation": "gelu"}),
        (DESIGNS[-1], {"widths": (65,), "frequency": 10.0}),
    ]
    for design, values in changes:
        names = {design.name, *(replace(design, **{field: value}).name for field, value in values.items())}
        assert len(names) == len(values) + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"family": "rnn"}, "family: found 'rnn', expected one of mlp, cnn, vgg, resnet, siren"),
        ({"family": "mlp", "width": 3}, r"family mlp: found the fields \['width'\], expected some of \['widths', 'activation'\]"),
        ({"family": "mlp"}, "family mlp: .*missing .*widths.*expected the fields"),
        ({"family": "mlp", "widths": [0], "activation": "step"}, r"(?s)widths: found \(0,\), expected whole .*activation: found 'step', expected"),
        ({"family": "cnn", "channels": [3], "kernel": 4}, "kernel: found 4, expected one of 3, 5, 7"),
        ({"family": "vgg", "stages": []}, r"stages: found \(\), expected whole numbers"),
        ({"family": "siren", "widths": [3], "frequency": 0}, "frequency: found 0, expected a number above 0"),
        ({"family": "siren", "widths": [3], "frequency": "30"}, "frequency: found '30', expected a number above 0"),
        ({"family": "mlp", "widths": [8, 65_537]}, r"widths: found \(8, 65537\), expected whole numbers from 1 to 65536"),
        ({"family": "mlp", "widths": [8] * 1001}, "widths: found 1001 layers, expected at most 1000"),
        ({"family": "vgg", "stages": [[8] * 600] * 2}, "stages: found 1200 layers, expected at most 1000"),
        ({"family": "resnet", "repeats": [1] * 4, "width": 8193}, "found width 8193, which 4 stages double.*expected at most 65536 channels"),
        ({"family": "resnet", "repeats": [600, 401], "width": 8}, "and 1001 blocks, expected .* 1000 blocks"),
    ],
)
def test_a_design_that_cannot_be_is_refused(content, message):
    with pytest.raises(InvalidInput) as error:
        from_json(content)
    assert re.search(message, str(error.value))


@pytest.mark.parametrize("design", [CNN((4,) * 4), VGG(((3,),) * 4)])
def test_images_that_are_too_small_are_refused(design):
    with pytest.raises(InvalidInput, match="found images of 8x8, expected at least 16 pixels a side for its 4 poolings"):
        design.build((1, 8, 8), 10)
