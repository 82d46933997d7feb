import copy
import json
import re

import pytest
import torch

from graphalign.errors import CorruptFile, InvalidInput
from graphalign.zoo import population
from graphalign.zoo.manifest import MANIFEST, read_manifest
from graphalign.zoo.population import generate
from graphalign.zoo.sections import read_sections

from .populations import CONTENT


@pytest.fixture(scope="module")
def sections():
    return read_sections(CONTENT)


@pytest.fixture
def folder(sections, tmp_path):
    generate(sections, tmp_path, device="cpu")
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """Names of the designs that are trained from here on."""
    names = []
    fit_many = population.fit_many
    monkeypatch.setattr(population, "fit_many", lambda design, *rest, **named: names.append(design.name) or fit_many(design, *rest, **named))
    return names


def weights(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("*/*.safetensors"))}


def test_a_population_is_a_file_per_group_and_a_manifest(sections, folder):
    groups = read_manifest(folder)
    assert {g.section: sum(h.section == g.section for h in groups) for g in groups} == {"train": 3, "signals": 2, "in_distribution": 2}
    assert {g.file for g in groups} == weights(folder).keys()
    for group in groups:
        section = next(s for s in sections if s.name == group.section)
        assert (group.split, group.seeds, (group.design, group.recipe) in section.members) == (section.split, section.seeds, True)
        scores = group.psnr if group.section == "signals" else group.accuracies
        assert len(scores) == len(group.seeds)
        assert len(group.accuracies) + len(group.psnr) == len(group.seeds)
        assert group.made_with["torch"] == torch.__version__
        assert (group.image, group.classes) == ((1, 8, 8), 10)


def test_equal_configurations_give_equal_bytes(sections, folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    generate(sections, other, device="cpu")
    assert weights(other) == weights(folder)


def test_what_is_there_is_not_trained_again(sections, folder, trained):
    before = weights(folder)
    generate(sections, folder)
    assert trained == []
    assert weights(folder) == before


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-1] + b"x")])
def test_a_damaged_or_lost_group_is_made_again(sections, folder, trained, damage):
    before = weights(folder)
    group = read_manifest(folder)[2]
    damage(folder / group.file)
    generate(sections, folder, device="cpu")
    assert trained == [group.design.name]
    assert weights(folder) == before


def test_an_interrupted_run_goes_on(sections, folder, tmp_path_factory, trained):
    other = tmp_path_factory.mktemp("other")

    def stop(done, total, what):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(sections, other, device="cpu", progress=stop)
    assert len(trained) == 4
    assert len(generate(sections, other, device="cpu")) == 7
    assert len(trained) == 7
    assert weights(other) == weights(folder)
    assert {g.name for g in read_manifest(other)} == {g.name for g in read_manifest(folder)}


def test_parts_and_sections_make_up_the_whole(sections, folder, tmp_path_factory, trained):
    other = tmp_path_factory.mktemp("other")
    told = []
    assert len(generate(sections, other, only="signals", device="cpu", progress=lambda *now: told.append(now))) == 2
    assert [(done, total) for done, total, _ in told] == [(0, 2), (1, 2), (2, 2)]
    assert (len(generate(sections, other, part=(1, 2), device="cpu")), len(generate(sections, other, part=(2, 2), device="cpu"))) == (4, 3)
    assert len(trained) == 7
    assert weights(other) == weights(folder)
    assert {g.name for g in read_manifest(other)} == {g.name for g in read_manifest(folder)}


def test_two_processes_leave_one_complete_manifest(sections, tmp_path, monkeypatch):
    write_manifest = population.write_manifest

    def the_other_finishes_first(folder):
        monkeypatch.setattr(population, "write_manifest", write_manifest)
        generate(sections, tmp_path, part=(2, 2))
        write_manifest(folder)

    monkeypatch.setattr(population, "write_manifest", the_other_finishes_first)
    generate(sections, tmp_path, part=(1, 2))
    assert len(read_manifest(tmp_path)) == 7


def test_a_manifest_lists_groups_that_appear_while_it_is_written(folder, monkeypatch):
    from graphalign.zoo import manifest

    late = next(iter(manifest.read_groups(folder)))
    content = (folder / f"{late}.json").read_text()
    (folder / f"{late}.json").unlink()
    write_json = manifest._write_json

    def appear(file, entry):
        write_json(file, entry)
        (folder / f"{late}.json").write_text(content)

    monkeypatch.setattr(manifest, "_write_json", appear)
    manifest.write_manifest(folder)
    assert late in {g.name for g in read_manifest(folder)}


def test_more_designs_can_be_added(folder, trained):
    content = copy.deepcopy(CONTENT)
    content["train"]["designs"] = 4
    generate(read_sections(content), folder)
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 4}, r"train/mlp-.*: found seeds \(0, 1, 2\) in the folder, and \(0, 1, 2, 3\) in the configuration"),
        ({"split": "validation"}, "train/mlp-.*: found split train in the folder, and validation in"),
        ({"recipe": {"data": "digits", "images": 200, "epochs": 3}}, "train/mlp-.*: in the folder, and not in the section train of the"),
    ],
)
def test_a_configuration_that_contradicts_the_folder_is_refused(folder, trained, change, message):
    content = {"train": {**CONTENT["train"], **change}}
    with pytest.raises(InvalidInput) as error:
        generate(read_sections(content), folder)
    assert len(re.findall(message, str(error.value))) == 3
    assert "Generate into another folder" in str(error.value)
    assert trained == []


def test_networks_of_sections_that_only_the_folder_has_are_not_reused(folder):
    content = {"again": {**CONTENT["train"], "split": "test", "designs": 8}}
    content["again"]["design"] = {"family": "mlp", "depth": [1, 2], "width": [4, 8, 12], "profile": ["constant", "free"]}
    with pytest.raises(InvalidInput, match=r"the seeds \[0, 1, 2\] is in"):
        generate(read_sections(content), folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"only": "tests"}, "only: found 'tests', expected one of train, signals"), ({"part": (3, 2)}, "part: found 3/2, expected i/n")],
)
def test_wrong_requests_are_refused(sections, tmp_path, settings, message):
    with pytest.raises(InvalidInput, match=message):
        generate(sections, tmp_path, **settings)


@pytest.mark.parametrize("text", ["{", "[]", '{"section": "train"}', '{"design": 3, "recipe": 4}'])
def test_damaged_json_is_named(sections, folder, text):
    file = next(folder.glob("*/*.json"))
    file.write_text(text)
    with pytest.raises(CorruptFile, match=re.escape(str(file))):
        generate(sections, folder)


def test_a_missing_or_foreign_manifest_is_refused(folder):
    with pytest.raises(InvalidInput, match="manifest.json does not exist; generate a population"):
        read_manifest(folder / "train")
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "version": 0}))
    with pytest.raises(InvalidInput, match="found version 0, expected 1"):
        read_manifest(folder)
