"""`graphalign merge`: a recipe or a list of networks, one folder, and a report that says what was done."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from graphalign import Alignment, load_state
from graphalign.averaging import average
from graphalign.data import digits, loader
from graphalign.files import save_state
from graphalign.merged_files import merge_files
from graphalign.recipes import Align, Recipe
from tests.commands.conftest import content, perceptron

RECIPE = {
    "models": [
        {"model": "a.safetensors", "parameters": {"weight": 1}},
        {"model": "b.safetensors", "parameters": {"weight": 3.0}},
    ],
    "merge_method": "linear",
    "align": {"method": "weight"},
}


def write(folder, recipe, name="merge.yaml"):
    (folder / name).write_text(yaml.safe_dump(recipe))


def expected(folder, out, weights):
    alignment = Alignment.load(folder / out / "permutations-2.safetensors")
    assert alignment.moved > 0
    return average([perceptron(0), alignment.apply(perceptron(1))], weights)


def test_a_recipe_says_it_all(run, folder):
    write(folder, RECIPE)
    result = run("merge", "merge.yaml", "out")
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["merge_report.json", "model.safetensors", "permutations-2.safetensors"]
    found = load_state(folder / "out" / "model.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in expected(folder, "out", [0.25, 0.75]).items())
    report = json.loads((folder / "out" / "merge_report.json").read_text())
    assert report["versions"]["graphalign"]
    assert [model["weight"] for model in report["models"]] == [0.25, 0.75]
    second = report["models"][1]
    assert second["permutations"] == "permutations-2.safetensors"
    assert second["distance"]["after"] < second["distance"]["before"]
    assert second["verification"]["largest_change"] < 1e-12
    assert second["objective"] is not None
    assert second["barrier"] is None
    assert "b.safetensors" in result.stdout


def test_a_list_of_networks_does_the_same(run, folder):
    write(folder, RECIPE)
    run("merge", "merge.yaml", "first")
    found = content(run("merge", "a.safetensors", "b.safetensors", "-o", "second", "--weight", "1", "--weight", "3", "--method", "weight", "--json"))
    first, second = (load_state(folder / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert found["result"]["files"] == ["model.safetensors"]


def test_the_base_model_gives_the_order(run, folder):
    save_state(perceptron(5), folder / "base.safetensors")
    write(folder, RECIPE | {"base_model": "base.safetensors", "dtype": "bfloat16"})
    report = content(run("merge", "merge.yaml", "out", "--json"))
    assert [model["weight"] for model in report["models"]] == [0.0, 0.25, 0.75]
    orders = [Alignment.load(folder / "out" / f"permutations-{i}.safetensors") for i in (2, 3)]
    states = [order.apply(perceptron(i)) for i, order in enumerate(orders)]
    found = load_state(folder / "out" / "model.safetensors")
    wanted = average([perceptron(5), *states], [0.0, 0.25, 0.75])
    assert all(torch.equal(found[key], tensor.bfloat16()) for key, tensor in wanted.items())


def test_without_alignment_it_averages(run, folder):
    write(folder, RECIPE | {"align": False})
    run("merge", "merge.yaml", "out")
    found = load_state(folder / "out" / "model.safetensors")
    wanted = average([perceptron(0), perceptron(1)], [0.25, 0.75])
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_barriers_repair_and_code(run, folder):
    recipe = {
        "models": [{"model": "c.pt"}, {"model": "d.pt"}],
        "align": {"method": "activation", "data": "digits", "arch": "nets.py:small"},
        "repair": {"data": "digits", "reset_batch_norm": "digits"},
    }
    write(folder, recipe)
    report = content(run("merge", "merge.yaml", "out", "--data", "digits", "--points", "3", "--json", "--report", "merge.html"))
    assert (folder / "merge.html").is_file()
    assert report["models"][1]["barrier"]["barrier"] >= 0
    assert set(report["scores"]) == {"c.pt", "d.pt", "merged"}
    found, plain = load_state(folder / "out" / "model.safetensors"), load_state(folder / "c.pt")
    assert {key: t.dtype for key, t in found.items()} == {key: t.dtype for key, t in plain.items()}
    write(folder, recipe | {"repair": None}, "plain.yaml")
    run("merge", "plain.yaml", "plain")
    assert not torch.equal(found["1.running_var"], load_state(folder / "plain" / "model.safetensors")["1.running_var"])


def test_data_of_the_statistics_show_the_input(run, folder):
    run("merge", "c.pt", "d.pt", "--arch", "nets.py:small", "--reset-batch-norm", "digits:train", "-o", "out")
    assert (folder / "out" / "model.safetensors").is_file()


def test_three_networks_through_the_universe_with_a_report(run, folder):
    save_state(perceptron(5), folder / "e.safetensors")
    run("merge", "a.safetensors", "b.safetensors", "e.safetensors", "-o", "out", "--method", "universe", "--report", "report.html")
    assert (folder / "out" / "permutations-3.safetensors").is_file()
    assert "Merge of 3 networks" in (folder / "report.html").read_text()


def test_what_was_done_is_shown_in_short(run, folder):
    found = merge_files(Recipe(("a.safetensors", "b.safetensors"), (0.25, 0.75), align=Align(method="weight")), folder / "out", data=loader(digits("test")))
    head, first, second = repr(found).splitlines()
    assert head == "MergedFiles(6 tensors in model.safetensors)"
    assert first.strip() == "0.25 x a.safetensors: as it is"
    assert second.strip().startswith("0.75 x b.safetensors: aligned by weight, ")
    assert f"barrier {found.curves[1].barrier:.3g}" in second


def test_earlier_results_stay_unless_forced(run, folder):
    write(folder, RECIPE)
    (folder / "out").mkdir()
    run("merge", "merge.yaml", "out")
    (folder / "out" / "mine.txt").write_text("mine")
    before = (folder / "out" / "model.safetensors").read_bytes()
    assert "exists already" in run("merge", "merge.yaml", "out", code=1).stderr
    (folder / "out" / "permutations-9.safetensors").write_text("of an earlier result")
    write(folder, RECIPE | {"align": {"method": "naive"}})
    run("merge", "merge.yaml", "out", "--force")
    assert (folder / "out" / "mine.txt").read_text() == "mine"
    assert (folder / "out" / "model.safetensors").read_bytes() != before
    assert not (folder / "out" / "permutations-9.safetensors").exists()
    assert "is where the input" in run("merge", "merge.yaml", ".", "--force", code=1).stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "models: found [], expected a list of - model: PATH"),
        ({"models": [{"model": "a.safetensors"}]}, "models: found 1, expected two at least"),
        ({"models": [{"modle": "a"}, {"model": 3}]}, "models[0].modle: unknown, expected one of model, parameters"),
        ({"models": [{"modle": "a"}, {"model": 3}]}, "models[1].model: found 3, expected a path"),
        ({"merge_method": "ties"}, "merge_method: found 'ties', expected linear"),
        ({"slices": []}, "slices: unknown, expected one of models, merge_method"),
        ({"dtype": "int4"}, "dtype: found 'int4', expected one of float32"),
        ({"parameters": {"normalize": False}}, "of sum 4, expected 1"),
        ({"align": {"method": "wieght"}}, "align.method: found wieght, expected one of"),
        ({"align": {"method": "weight", "settings": {"turns": 3}}}, "align.settings: method 'weight': found unknown settings turns"),
        ({"align": {"refine": [3]}}, "align.refine: found [3], expected a list of texts"),
        ({"align": {"seed": -1}}, "align.seed: found -1"),
        ({"repair": {"closed_form": "yes"}}, "repair.closed_form: found 'yes', expected true or false"),
        ({"models": [{"model": "a.safetensors", "parameters": {"weight": float("nan")}}, {"model": "b.safetensors"}]}, "weight: found nan, expected one finite number"),
        ({"models": [{"model": "a.safetensors"}, {"model": "gone.safetensors"}]}, "gone.safetensors does not exist"),
        ({"models": [{"model": "a.safetensors"}, {"model": "c.pt"}], "align": False}, "the networks do not have the same tensors"),
    ],
)
def test_recipes_that_cannot_be_used(run, folder, change, message):
    write(folder, RECIPE | change)
    result = run("merge", "merge.yaml", "out", code=1)
    assert message in result.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "line 1: expected the node content"),
        ("a: &x [1]\nb: *x", "line 2: found the alias *x"),
        ("models: []\nmodels: []", "line 1: found the key 'models' twice"),
        ("[" * 5000, "line 1: found entries nested deeper than 50"),
        ("- 1", "the recipe: found [1], expected entries models"),
        ("\0", "expected YAML"),
    ],
)
def test_files_that_are_no_recipes(run, folder, text, message):
    (folder / "merge.yaml").write_text(text)
    assert message in run("merge", "merge.yaml", "out", code=1).stderr


def test_wrong_usage(run, folder):
    write(folder, RECIPE)
    run("merge", "merge.yaml", code=2)
    run("merge", "a.safetensors", "b.safetensors", code=2)
    assert "found --dtype beside a recipe" in run("merge", "merge.yaml", "out", "--dtype", "float16", code=1).stderr
    for arguments in (("--seed", "3"), ("--method", "gnn"), ("--base", "1"), ("--set", "restarts=3"), ("--align-data", "digits")):
        assert f"found {arguments[0]} beside a recipe" in run("merge", "merge.yaml", "out", *arguments, code=1).stderr
    for name in ("out.safetensors", "out.bin"):
        assert f"'.{name.partition('.')[2]}', expected the name of a folder" in run("merge", "a.safetensors", "b.safetensors", "-o", name, code=1).stderr
    assert "expected .html, .htm" in run("merge", "a.safetensors", "b.safetensors", "-o", "out", "--report", "r.pdf", code=1).stderr
    assert "--weight: found 1 for 2" in run("merge", "a.safetensors", "b.safetensors", "-o", "out", "--weight", "1", code=1).stderr
    assert "--base: found 3" in run("merge", "a.safetensors", "b.safetensors", "-o", "out", "--base", "3", code=1).stderr
