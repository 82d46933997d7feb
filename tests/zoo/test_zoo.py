from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphalign.errors import CorruptFile
from graphalign.zoo import zoo
from graphalign.zoo.population import generate
from graphalign.zoo.sections import read_sections
from graphalign.zoo.zoo import Zoo

from .populations import CONTENT


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    generate(read_sections(CONTENT), folder, device="cpu")
    return Zoo.open(folder)


def test_groups_are_selected_by_what_they_are(population):
    assert len(population.groups) == len(population.select()) == len(population.select(data="digits")) == 7
    assert {g.section for g in population.select(split="train")} == {"train", "signals"}
    assert {g.section for g in population.select(family="siren")} == {"signals"}
    assert {g.section for g in population.select(split="test", family="mlp")} == {"in_distribution"}
    assert len(population.select(section="train")) == 3
    assert population.select(data="mnist") == []


def test_networks_have_the_accuracies_of_the_manifest(population):
    for group in population.select(family="mlp"):
        images = population.images(group)
        assert len(images.x) == 200
        for state, accuracy in zip(population.states(group), group.accuracies, strict=True):
            network = group.design.build(group.image, group.classes)
            network.load_state_dict(state)
            found = (network(images.test_x).argmax(1) == images.test_y).double().mean()
            assert accuracy == pytest.approx(float(found))


def test_sine_networks_have_the_psnr_of_the_manifest(population):
    for group in population.select(family="siren"):
        images = population.images(group)
        error = (population.module(group)(images.x) - images.y).detach().square().mean()
        assert group.psnr[0] == pytest.approx(float(10 * torch.log10(4 / error)), abs=1e-3)


def test_the_module_of_a_group_is_its_first_network(population):
    group = population.groups[0]
    network = population.module(group)
    assert not network.training
    for key, tensor in population.states(group)[0].items():
        assert torch.equal(network.state_dict()[key], tensor)
    assert len(population.states(group)) == len(group.seeds)


def test_networks_of_a_seed_are_those_of_the_seed_alone(population):
    from graphalign.zoo.fitting import fit_many

    group = population.select(section="in_distribution")[0]
    alone = fit_many(group.design, group.recipe, population.images(group), group.seeds[1:2])[0]
    for key, tensor in population.states(group)[1].items():
        torch.testing.assert_close(tensor, alone[key], rtol=1e-4, atol=1e-4)


def test_a_data_set_is_read_once(population, monkeypatch):
    fresh = Zoo.open(population.folder)
    calls = []
    read = zoo.read_images
    monkeypatch.setattr(zoo, "read_images", lambda *given: calls.append(given) or read(*given))
    for group in fresh.groups:
        fresh.images(group, "root")
    assert calls == [("digits", "root")]


def test_fewer_seeds_are_the_first_networks(population):
    group = population.select(section="signals")[0]
    (first,) = population.states(replace(group, seeds=group.seeds[:1]))
    whole = population.states(group)
    assert len(whole) == 2
    assert all(torch.equal(tensor, whole[0][name]) for name, tensor in first.items())


def test_a_file_with_other_networks_is_refused(population):
    group = population.select(section="signals")[0]
    file = population.folder / group.file
    tensors = load_file(file)
    save_file({**tensors, "x.0.weight": torch.zeros(1)}, file)
    with pytest.raises(CorruptFile, match="found 'x.0.weight', expected names that start with the number of a network"):
        population.states(group)
    save_file({n: t for n, t in tensors.items() if not n.startswith("1.")}, file)
    with pytest.raises(CorruptFile, match="found 1 networks, expected 2; generate it again"):
        population.states(group)
    save_file(tensors, file)
