"""The choice of codes: agreement by its formula, classes in turns."""

from __future__ import annotations

import torch

from graphalign.encoder import random_inputs
from graphalign.program import Program
from graphalign.selection import agreement, choose, class_probabilities, has_classes
from tests.traced import traced


def test_agreement_is_the_bhattacharyya_coefficient_and_its_class() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, 3, 4, generator=generator).softmax(-1) for _ in range(2))
    values, classes = agreement(p.log(), q.log())
    joint = (p * q).sqrt()
    assert torch.allclose(values, joint.sum(-1).mean(1))
    assert torch.equal(classes, joint.mean(1).argmax(-1))
    assert torch.allclose(agreement(p.log(), p.log())[0], torch.ones(5))
    assert torch.equal(values, agreement(q.log(), p.log())[0])


def test_classes_take_turns() -> None:
    values = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.2, 0.6])
    classes = torch.tensor([0, 0, 0, 1, 1, 2])
    assert choose(values, classes, 3).tolist() == [0, 4, 5]
    assert choose(values, classes, 4).tolist() == [0, 1, 4, 5]
    assert choose(values, classes, 5).tolist() == [0, 1, 3, 4, 5]
    assert choose(values, classes, 6).tolist() == list(range(6))


def test_the_choice_follows_the_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    values, classes = torch.rand(40, generator=generator), torch.randint(3, (40,), generator=generator)
    order = torch.randperm(40, generator=generator)
    chosen = choose(values, classes, 10)
    assert sorted(order[choose(values[order], classes[order], 10)].tolist()) == chosen.tolist()


def test_probabilities_are_those_of_the_network() -> None:
    network = traced("cnn_flatten")
    program = Program(network.architecture)
    sample = next(iter(network.state.values()))
    inputs = random_inputs(program, 7, sample, torch.Generator().manual_seed(0))
    found = class_probabilities(program, network.state, inputs)
    (images,) = inputs.values()
    with torch.no_grad():
        expected = torch.stack([network.model(image).log_softmax(-1) for image in images])
    assert found is not None
    assert found.shape == (7, images.shape[1], expected.shape[-1])
    assert torch.allclose(found, expected, atol=1e-5)


def test_positions_are_predictions_of_one_code() -> None:
    """Logits of sequences have their classes last, and every position counts."""
    network = traced("gpt")
    program = Program(network.architecture)
    inputs = random_inputs(program, 3, next(iter(network.state.values())), torch.Generator().manual_seed(0))
    found = class_probabilities(program, network.state, inputs)
    (output, *_) = program.outputs()
    assert found is not None
    assert found.shape == (3, output[..., 0].numel(), output.shape[-1])


def test_single_values_are_no_classes() -> None:
    torch.manual_seed(0)
    from graphalign.converters.trace import trace_architecture

    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    program = Program(trace_architecture(model, torch.zeros(2, 4)))
    inputs = random_inputs(program, 3, model[0].weight, torch.Generator().manual_seed(0))
    assert class_probabilities(program, dict(model.state_dict()), inputs) is None
    assert not has_classes(program)
