"""The encoder's states and how they are compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphalign import encoder
from graphalign.converters.trace import trace_architecture
from graphalign.encoder import FEWEST_CODES, MAX_POSITIONS, MOST_CODES, Moments, code_chunks, code_count, encode_pair, find_taps
from graphalign.group import all_tensors
from graphalign.program import Program
from tests.traced import cast, other_state, traced


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("parts", [[50], [1, 49], [20, 20, 10], [1] * 50])
def test_moments_of_chunks_are_correlations_of_the_whole(parts: list[int]) -> None:
    a, b = random(4, 50) * 3 + 100, random(4, 50, seed=1) - 7
    moments = Moments(centred=True)
    for x, y in zip(a.split(parts, 1), b.split(parts, 1), strict=True):
        moments.add(x, y)
    expected = torch.corrcoef(torch.cat([a, b]))[:4, 4:]
    assert moments.samples == 50
    assert torch.allclose(moments.cosine(), expected, atol=1e-5)


def test_moments_without_centring_are_cosines() -> None:
    a, b = random(3, 40) + 1, random(3, 40, seed=1) + 2
    moments = Moments(centred=False)
    for x, y in zip(a.split(15, 1), b.split(15, 1), strict=True):
        moments.add(x, y)
    expected = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    assert torch.allclose(moments.cosine(), expected, atol=1e-5)


def test_units_that_never_react_score_zero() -> None:
    a, b = random(3, 40), random(3, 40, seed=1)
    a[1], b[2] = 5.0, 0.0
    moments = Moments(centred=True)
    moments.add(a, b)
    found = moments.cosine()
    assert found.isfinite().all()
    assert not found[1].any()
    assert not found[:, 2].any()
    everything = Moments(centred=True)
    everything.add(torch.zeros(3, 10), torch.zeros(3, 10))
    assert not everything.cosine().any()


@pytest.mark.parametrize("name", ["mlp_3", "cnn_flatten", "densenet", "resnext", "gpt", "llama"])
def test_every_cell_is_read_somewhere_by_all_its_units(name: str) -> None:
    architecture = traced(name).architecture
    taps = find_taps(architecture, torch.Generator().manual_seed(0))
    offsets = architecture.offsets
    seen = {cell.name: set[int]() for cell in architecture.spec.cells}
    for tap in taps:
        seen[tap.cell].update(tap.units.tolist())
        assert tap.positions.shape[1] <= MAX_POSITIONS
        labels = architecture.reads[tap.step].reshape(-1)
        assert torch.equal(labels[tap.positions], (tap.units + offsets[tap.cell])[:, None].expand(tap.positions.shape))
    assert seen == {cell.name: set(range(cell.units)) for cell in architecture.spec.cells}


def test_all_units_of_a_tap_are_read_at_the_same_places() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    architecture = trace_architecture(model, torch.zeros(2, 3, 16, 16))
    (tap,) = find_taps(architecture, torch.Generator().manual_seed(0))
    assert tap.positions.shape == (6, MAX_POSITIONS)
    places = tap.positions - tap.units[:, None] * 14 * 14
    assert bool((places == places[:1]).all())


def test_the_number_of_codes_follows_the_cost() -> None:
    counts = {name: code_count(traced(name).architecture) for name in ("mlp_2", "cnn_flatten", "vgg_16")}
    assert counts["mlp_2"] == MOST_CODES
    assert FEWEST_CODES <= counts["vgg_16"] <= counts["cnn_flatten"] <= encoder.MOST_IMAGES
    big = trace_architecture(nn.Sequential(nn.Linear(4096, 8192, device="meta"), nn.Linear(8192, 4096, device="meta")).to_empty(device="cpu"),
                             torch.zeros(1, 4096))  # fmt: skip
    assert FEWEST_CODES <= code_count(big) < MOST_CODES


@pytest.mark.parametrize("name", ["mlp_2", "gpt", "mixed_inputs", "cnn_flatten"])
def test_chunks_of_codes_add_up_and_fit_the_inputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(traced(name).architecture)
    monkeypatch.setattr(encoder, "CHUNK_VALUES", 5 * sum(torch.Size(layer.shape).numel() for layer in program.architecture.layers))
    sample = torch.zeros(1, dtype=torch.float64)
    chunks = list(code_chunks(program, 12, sample, torch.Generator().manual_seed(0)))
    assert [len(cotangents[0]) for _, cotangents in chunks] == [5, 5, 2]
    for inputs, cotangents in chunks:
        assert {k: v.shape[1:] for k, v in inputs.items()} == {k: v.shape for k, v in program.inputs.items()}
        assert all(c.dtype == torch.float64 for c in cotangents)
        for key, vocabulary in program.vocabularies.items():
            assert not inputs[key].is_floating_point()
            assert 0 <= int(inputs[key].min()) <= int(inputs[key].max()) < vocabulary


def test_chunking_does_not_change_the_kind_of_result(monkeypatch: pytest.MonkeyPatch) -> None:
    network = traced("mlp_2")
    a, b = cast(network.state, torch.float64), cast(other_state("mlp_2"), torch.float64)
    whole = encode_pair(network.architecture, a, b, codes=2000)
    monkeypatch.setattr(encoder, "CHUNK_VALUES", 3000)
    parts = encode_pair(network.architecture, a, b, codes=2000)
    for cell in network.spec.cells:  # other codes of the same distribution
        assert float((whole.forward[cell.name] - parts.forward[cell.name]).abs().max()) < 0.15


@pytest.mark.parametrize("name", ["mlp_2", "cnn_flatten_bn", "attention"])
def test_a_network_agrees_with_itself(name: str) -> None:
    network = traced(name)
    state = cast(network.state, torch.float64)
    agreement = encode_pair(network.architecture, state, state, codes=64)
    for scores in (*agreement.forward.values(), *agreement.backward.values()):
        assert torch.allclose(scores, scores.T, atol=1e-12)
        assert float(scores.abs().max()) <= 1 + 1e-9
        assert bool(((scores.diagonal() > 0.99) | (scores.abs().amax(1) < 1e-6)).all())  # 0 for units that never react


def test_the_states_of_a_pair_depend_on_that_pair_alone() -> None:
    network = traced("resnet_basic")
    a, b = network.state, other_state("resnet_basic")
    alone = encode_pair(network.architecture, a, b, codes=16, seed=2)
    encode_pair(network.architecture, b, b, codes=16, seed=9)
    again = encode_pair(network.architecture, a, b, codes=16, seed=2)
    assert all(torch.equal(alone.forward[n], again.forward[n]) and torch.equal(alone.backward[n], again.backward[n]) for n in alone.forward)


def test_dead_networks_give_finite_scores() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.constant_(model.get_parameter("0.bias"), -1e4)
    architecture = trace_architecture(model, torch.zeros(1, 5))
    agreement = encode_pair(architecture, all_tensors(model), all_tensors(model), codes=32)
    assert all(s.isfinite().all() for s in (*agreement.forward.values(), *agreement.backward.values()))


def test_a_small_rest_joins_the_part_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = traced("mlp_1").architecture
    monkeypatch.setattr(encoder, "chunk_size", lambda _: 13)
    assert encoder.chunk_sizes(architecture, 16) == [16]
    assert encoder.chunk_sizes(architecture, 17) == [13, 4]
    assert encoder.chunk_sizes(architecture, 41) == [13, 13, 15]
    assert encoder.chunk_sizes(architecture, 26) == [13, 13]
    assert encoder.chunk_sizes(architecture, 3) == [3]
