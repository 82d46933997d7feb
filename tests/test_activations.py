"""Activations of pairs: a slow twin with hooks, inputs of every form, and activations at the edge."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import InvalidInput, activations, encoder, group
from graphalign.activations import correlations, scores
from graphalign.architecture import Architecture
from graphalign.converters.trace import trace_architecture
from graphalign.group import all_tensors
from tests.traced import cast, other_state, traced


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()


def cnn(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 7, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(28, 3)]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for _ in range(3):
            model(random(64, 2, 7, 7, seed=seed + 9).double() + 1)
    return model.eval()


class Residual(nn.Module):
    """A stream of 6 units that is read twice: by `first` before the sum, by `head` after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(h + self.second(F.relu(self.first(h))))  # type: ignore[no-any-return]


def read_by(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """What a layer gets as its input, one row per unit and one column per example and position."""
    caught = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    return caught[0].transpose(0, 1).flatten(1)


def similarity(kind: str, x: Tensor, y: Tensor) -> Tensor:
    if kind == "inner_product":
        return x @ y.T / x.shape[1]
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    if kind == "covariance":
        return x @ y.T / x.shape[1]
    norms = x.norm(dim=1)[:, None] * y.norm(dim=1)[None]
    return torch.where(norms > 1e-9, x @ y.T / norms, 0.0)


def pair(build: Any, example: Any) -> tuple[Architecture, nn.Module, nn.Module]:
    a, b = build(0), build(1)
    return trace_architecture(a, example), a, b


# -- what is compared -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["correlation", "covariance", "inner_product"])
@pytest.mark.parametrize("sizes", [[60], [7, 40, 13]], ids=["one batch", "uneven batches"])
def test_scores_are_those_of_activations_caught_by_hooks(kind: Any, sizes: list[int]) -> None:
    """Every example is a sample; batches of different means show a mean of per-batch statistics, which would be wrong."""
    architecture, a, b = pair(mlp, torch.zeros(1, 5, dtype=torch.float64))
    x = (random(60, 5) + torch.linspace(-2, 2, 60)[:, None]).double()
    found = scores(architecture, all_tensors(a), all_tensors(b), list(x.split(sizes)), kind=kind)
    for cell, layer in (("0", "2"), ("2", "4")):
        assert torch.allclose(found[cell], similarity(kind, read_by(a, layer, x), read_by(b, layer, x)), atol=1e-5)


@pytest.mark.parametrize("kind", ["correlation", "covariance", "inner_product"])
def test_positions_of_feature_maps_are_samples(kind: Any) -> None:
    architecture, a, b = pair(cnn, torch.zeros(3, 2, 7, 7, dtype=torch.float64))
    x = random(30, 2, 7, 7).double() + 1
    found = scores(architecture, all_tensors(a), all_tensors(b), [x[:12], x[12:]], kind=kind)
    assert torch.allclose(found["0"], similarity(kind, read_by(a, "3", x), read_by(b, "3", x)), atol=1e-5)
    last = [read_by(model, "6", x).reshape(7, 4, 30).flatten(1) for model in (a, b)]  # a channel's positions after the flatten
    assert torch.allclose(found["3"], similarity(kind, *last), atol=1e-5)


def test_tokens_are_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)).double()
    architecture = trace_architecture(model, torch.zeros(2, 5, 4, dtype=torch.float64))
    x = random(8, 5, 4).double()
    found = scores(architecture, all_tensors(model), all_tensors(model), [x])
    rows = read_by(model, "2", x.reshape(40, 4))
    assert torch.allclose(found["0"], similarity("correlation", rows, rows), atol=1e-5)


def test_a_residual_stream_is_compared_where_the_sum_is_read() -> None:
    """The mean over the places where it is read; what the branch adds is not looked at by itself."""
    torch.manual_seed(0)
    a, b = (Residual().double() for _ in range(2))
    architecture = trace_architecture(a, torch.zeros(1, 5, dtype=torch.float64))
    x = random(50, 5).double()
    found = scores(architecture, all_tensors(a), all_tensors(b), [x])
    expected = sum(similarity("correlation", read_by(a, at, x), read_by(b, at, x)) for at in ("first", "head")) / 2
    assert torch.allclose(found["stem"], expected, atol=1e-5)


def test_trap_running_statistics_are_used_whatever_the_mode_of_the_module() -> None:
    a, b = cnn(0), cnn(1)
    x = random(20, 2, 7, 7).double() * 3 + 2
    expected = similarity("correlation", read_by(a, "3", x), read_by(b, "3", x))
    architecture = trace_architecture(a.train(), torch.zeros(2, 2, 7, 7, dtype=torch.float64))
    before = {n: t.clone() for n, t in all_tensors(a).items()}
    found = scores(architecture, all_tensors(a), all_tensors(b.train()), [x])
    assert torch.allclose(found["0"], expected, atol=1e-5)
    assert all(torch.equal(before[n], t) for n, t in all_tensors(a).items())


def test_trap_both_networks_see_the_same_batches_of_a_shuffled_loader() -> None:
    architecture, a, _ = pair(mlp, torch.zeros(1, 5))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(random(64, 5)), batch_size=16, shuffle=True)
    found = correlations(architecture, all_tensors(a), all_tensors(a), loader)
    for matrix in found.values():
        live = matrix.abs().amax(1) > 1e-6
        assert int(live.sum()) >= 4
        assert bool((matrix.diagonal()[live] > 0.999).all())


def test_correlations_of_matched_units_are_on_the_diagonal() -> None:
    network = traced("resnet_basic")
    element = group.random_element(network.spec, torch.Generator().manual_seed(0))
    moved = group.apply_to_state(network.spec, element, network.state)
    found = correlations(network.architecture, network.state, moved, samples=64)
    for name, matrix in found.items():
        matched = matrix.gather(1, torch.argsort(element[name])[:, None]).flatten()
        assert torch.allclose(matched, matrix.amax(1), atol=1e-4)
        assert float(matched.median()) > 0.999


# -- units and activations at the edge --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["correlation", "covariance"])
def test_trap_dead_units_score_zero(kind: Any) -> None:
    architecture, a, b = pair(mlp, torch.zeros(1, 5))
    with torch.no_grad():
        a.get_parameter("0.bias")[2] = -1e6
        b.get_parameter("0.bias")[5] = -1e6
    found = scores(architecture, all_tensors(a), all_tensors(b), [random(40, 5)], kind=kind)
    assert all(matrix.isfinite().all() for matrix in found.values())
    assert not found["0"][2].any()
    assert not found["0"][:, 5].any()


def test_activations_that_are_not_finite_name_the_first_layer() -> None:
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.get_parameter("2.weight").mul_(1e38).mul_(1e3)
    architecture = trace_architecture(a, torch.zeros(1, 5))
    with pytest.raises(InvalidInput, match=r"found NaN, infinity or values too large.*\n  - network B: at step '\w+' \(module '3'\), in units of cell '2', and at 1 later places\n"):
        scores(architecture, all_tensors(a), all_tensors(b), [random(20, 5)])


def test_half_precision_is_computed_in_single_and_double_stays_double() -> None:
    network = traced("cnn_flatten")
    for dtype, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        found = scores(network.architecture, cast(network.state, dtype), cast(other_state("cnn_flatten"), dtype), samples=16)
        assert {matrix.dtype for matrix in found.values()} == {expected}


@pytest.mark.parametrize("name", ["cnn_flatten_bn", "gpt"])
def test_a_program_that_cannot_be_vectorised_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, b = traced(name), other_state(name)
    expected = scores(network.architecture, network.state, b, samples=12)

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(torch.func, "vmap", refuse)
    found = scores(network.architecture, network.state, b, samples=12)
    assert all(torch.allclose(found[n], expected[n], atol=1e-4) for n in expected)


# -- random inputs ----------------------------------------------------------------------------------------------------------


def test_random_inputs_follow_the_seed() -> None:
    network, b = traced("cnn_flatten"), other_state("cnn_flatten")
    first, again, other, images = (
        scores(network.architecture, network.state, b, samples=20, seed=seed, synthetic=kind)
        for seed, kind in ((1, "gaussian"), (1, "gaussian"), (2, "gaussian"), (1, "images"))
    )
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first)
    assert not any(torch.equal(first[n], images[n]) for n in first)


def test_fewer_positions_are_a_sample_of_all() -> None:
    architecture, a, b = pair(cnn, torch.zeros(1, 2, 7, 7, dtype=torch.float64))
    x = random(400, 2, 7, 7)
    every, few = (correlations(architecture, all_tensors(a), all_tensors(b), [x], max_positions=n) for n in (None, 4))
    assert not torch.equal(every["0"], few["0"])
    assert float((every["0"] - few["0"]).abs().max()) < 0.15


@pytest.mark.parametrize("settings", [{"kind": "cosine"}, {"synthetic": "cats"}, {"samples": 0}, {"max_positions": -1}], ids=str)
def test_unknown_settings_are_refused(settings: dict[str, Any]) -> None:
    network = traced("mlp_2")
    ((name, value),) = settings.items()
    with pytest.raises(InvalidInput, match=f"activations: found {name}={value!r}, expected "):
        scores(network.architecture, network.state, network.state, **settings)


def test_large_batches_are_cut_to_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, a, b = pair(mlp, torch.zeros(1, 5))
    x = random(50, 5)
    expected = correlations(architecture, all_tensors(a), all_tensors(b), [x])
    monkeypatch.setattr(encoder, "CHUNK_VALUES", 1)
    sizes = []
    run = activations.activations
    monkeypatch.setattr(activations, "activations", lambda p, t, inputs: sizes.append(len(inputs["args_0"])) or run(p, t, inputs))
    found = correlations(architecture, all_tensors(a), all_tensors(b), [x])
    assert set(sizes) == {1}
    assert all(torch.allclose(found[n], expected[n], atol=1e-9) for n in expected)
