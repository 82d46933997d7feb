"""Large networks are compared segment by segment, with the same result as all at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from graphalign import Aligner, AlignerConfig, aligner, cellwise, cutting, encoder, group
from graphalign.architecture import Architecture
from graphalign.cellwise import compare_cells, is_large
from graphalign.converted import Converted
from graphalign.converters.trace import trace_architecture
from graphalign.cutting import Limits, Stretch, cut
from graphalign.encoder import Agreement, Moments, encode_pair, find_taps
from graphalign.group import all_tensors
from graphalign.methods.gnn import GNN
from graphalign.methods.problem import Problem
from graphalign.program import Program
from graphalign.segments import Runner, Segment
from tests.planted import plant, recovered
from tests.traced import Traced, cast, other_state, traced

LIMITS = ("SEGMENT_VALUES", "STRETCH_VALUES", "WEIGHT_VALUES", "KEPT_VALUES")
NAMES = ["mlp_3", "mlp_batch_norm", "cnn_flatten", "resnet_bottleneck", "resnext", "encoder_layer_relu", "gpt", "two_inputs"]


@pytest.fixture
def few_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MULTIPLY_BUDGET", 1.0)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIMITS:
        monkeypatch.setattr(cellwise, name, 1)


def encode_large_pair(architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, seed: int = 0) -> Agreement:
    """`encode_pair` by `compare_cells`."""
    found = list(compare_cells(architecture, a, b, seed=seed))
    return Agreement({name: forward for name, forward, _ in found}, {name: backward for name, _, backward in found})


def segments_of(stretches: tuple[Stretch, ...]) -> list[Segment]:
    return [segment for stretch in stretches for segment in stretch]


def pair_of(network: Traced, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return cast(network.state, torch.float64), cast(other_state(name), torch.float64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("few_codes", "small_segments")
def test_segments_give_what_the_whole_network_gives(name: str) -> None:
    network = traced(name)
    a, b = pair_of(network, name)
    whole, parts = encode_pair(network.architecture, a, b, seed=3), encode_large_pair(network.architecture, a, b, seed=3)
    assert set(parts.forward) == set(parts.backward) == {cell.name for cell in network.spec.cells}
    for kind in ("forward", "backward"):
        for cell, expected in getattr(whole, kind).items():
            assert torch.allclose(getattr(parts, kind)[cell], expected, rtol=0, atol=1e-11), (kind, cell)


class WithTemperature(nn.Module):
    """Returns logits twice, a parameter and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.temperature = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.body(x)
        return y, self.temperature, y, x


@pytest.mark.usefixtures("few_codes", "small_segments")
def test_outputs_may_be_parameters_inputs_and_repeated() -> None:
    networks = [WithTemperature().double() for _ in range(2)]
    architecture = trace_architecture(networks[0], torch.zeros(1, 5).double())
    states = [all_tensors(network) for network in networks]
    whole, parts = (f(architecture, *states, seed=3) for f in (encode_pair, encode_large_pair))
    for name in whole.forward:
        assert torch.allclose(parts.forward[name], whole.forward[name], atol=1e-12)
        assert torch.allclose(parts.backward[name], whole.backward[name], atol=1e-12)


class Gated(nn.Module):
    """Splits a layer into value and gate, which are alive as a list for several steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.layer(x).split(8, -1)
        shifted = (x.sum(-1, keepdim=True) + 1).tanh()
        return self.head((parts[0] + shifted) * parts[1].sigmoid())  # type: ignore[no-any-return]


@pytest.mark.usefixtures("few_codes", "small_segments")
def test_nothing_is_cut_where_a_list_is_alive() -> None:
    networks = [Gated().double() for _ in range(2)]
    architecture = trace_architecture(networks[0], torch.zeros(1, 5).double())
    states = [all_tensors(network) for network in networks]
    whole, parts = (f(architecture, *states, seed=3) for f in (encode_pair, encode_large_pair))
    for name in whole.forward:
        assert torch.allclose(parts.forward[name], whole.forward[name], atol=1e-12)
    graph = cutting._Graph(Program(architecture), frozenset())
    (split,) = (index for index, step in enumerate(graph.steps) if "split" in step.name)
    assert graph.narrowest(split, split + 1) is None
    assert graph.narrowest(split - 1, split + 1) == split


@pytest.mark.usefixtures("few_codes", "small_segments")
def test_operators_that_cannot_be_vectorised_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = traced("encoder_layer_relu")
    a, b = pair_of(network, "encoder_layer_relu")
    expected = encode_large_pair(network.architecture, a, b, seed=3)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr("graphalign.segments.vectorise", refuse)
    found = encode_large_pair(network.architecture, a, b, seed=3)
    for cell, values in expected.backward.items():
        assert torch.allclose(found.backward[cell], values, rtol=0, atol=1e-11)
        assert torch.allclose(found.forward[cell], expected.forward[cell], rtol=0, atol=1e-11)


@pytest.mark.usefixtures("few_codes")
def test_a_network_of_one_segment_is_compared_bit_by_bit_as_before() -> None:
    network = traced("cnn_flatten")
    whole, one = (f(network.architecture, network.state, other_state("cnn_flatten")) for f in (encode_pair, encode_large_pair))
    assert all(torch.equal(whole.forward[name], one.forward[name]) for name in whole.forward)
    assert all(torch.equal(whole.backward[name], one.backward[name]) for name in whole.backward)


@pytest.mark.usefixtures("few_codes", "small_segments")
def test_a_cell_comes_as_soon_as_its_last_place_is_read() -> None:
    network = traced("mlp_3")
    found = [name for name, _, _ in compare_cells(network.architecture, network.state, other_state("mlp_3"))]
    assert found == [cell.name for cell in reversed(network.spec.cells)]


def test_segments_keep_to_their_limits_and_leave_nothing_out() -> None:
    network = traced("resnet_basic")
    program = Program(network.architecture)
    taps = {tap.step: 2 * len(tap.units) ** 2 for tap in find_taps(network.architecture, torch.Generator())}
    ((one,),) = cut(program, taps, 1, Limits(10**12, 10**9))
    limit = one.held // 4
    (segments,) = cut(program, taps, 1, Limits(10**12, limit))
    assert len(segments) >= 4
    assert sum(segment.held for segment in segments) == one.held
    assert [tap for segment in segments for tap in segment.taps] == list(one.taps)
    assert all(segment.held <= limit or len(segment.nodes) == 1 for segment in segments)
    assert all(before.outputs == after.inputs for before, after in itertools.pairwise(segments))
    (weights,) = cut(program, taps, 1, Limits(10**12, 10**9, 1))
    assert len(weights) >= sum(block.op == "conv" for block in network.architecture.blocks)


@pytest.mark.parametrize("codes", [1, 7])
def test_stretches_are_as_few_as_the_limit_allows(codes: int) -> None:
    network = traced("resnet_basic")
    program = Program(network.architecture)
    taps = {tap.step: 1000 * len(tap.units) ** 2 for tap in find_taps(network.architecture, torch.Generator())}

    def memory(stretches: tuple[Stretch, ...]) -> list[int]:
        ends = [*(stretch[0].alive for stretch in stretches[1:]), sum(out.numel() for out in program.outputs())]
        products = [sum(taps[tap] for segment in stretch for tap in segment.taps) for stretch in stretches]
        starts = [stretch[0].alive for stretch in stretches]
        return [p + 2 * codes * (2 * start + end) for p, start, end in zip(products, starts, ends, strict=True)]

    finest = cut(program, taps, codes, Limits(1, 10**9))
    whole = memory(cut(program, taps, codes, Limits(10**12, 10**9)))
    least = max(memory(finest))
    limits = [least + (whole[0] - least) * part // 5 for part in range(6)]
    counts = []
    for limit in limits:
        stretches = cut(program, taps, codes, Limits(limit, 10**9))
        assert max(memory(stretches)) <= limit
        assert [t for s in segments_of(stretches) for t in s.taps] == [t for s in segments_of(finest) for t in s.taps]
        counts.append(len(stretches))
    assert counts == sorted(counts, reverse=True)
    assert len(finest) == counts[0] > counts[2] > counts[-1] == len(whole) == 1


def test_forward_runs_of_segments_are_the_network() -> None:
    network = traced("gpt")
    program = Program(network.architecture)
    segments = segments_of(cut(program, {}, 3, Limits(1, 1, 1)))
    assert len(segments) > 10
    (name,) = program.inputs
    values = {name: torch.randint(4, (3, *program.inputs[name].shape), generator=torch.Generator().manual_seed(0))}
    expected = torch.stack([program.run(network.state, {name: one})[0][0] for one in values[name]])
    runner = Runner(program, network.state, torch.zeros(0))
    for segment in segments:
        values = runner.forward(segment, values, 2)
    assert torch.allclose(values[program.results()[0].name], expected, atol=1e-6)


@pytest.mark.parametrize(("slots", "repeats"), [(0, 11), (1, 11), (2, 4), (3, 3), (12, 1)])
def test_parts_come_backward_from_as_few_runs_as_the_slots_allow(slots: int, repeats: int) -> None:
    runs: list[int] = []

    def forward(parts: Sequence[int], values: list[int]) -> list[int]:
        runs.extend(parts)
        return [*values, *parts]

    found = list(cellwise._backward(range(12), [], slots, forward))  # type: ignore[type-var, arg-type]
    assert found == [(part, list(range(part))) for part in reversed(range(12))]
    assert max(runs.count(part) for part in range(12)) <= repeats
    assert slots < 11 or len(runs) == 11


def test_only_large_networks_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_large(traced("vgg_16").architecture)
    with torch.device("meta"):
        wide = nn.Sequential(nn.Linear(4, 2100), nn.ReLU(), nn.Linear(2100, 2)).to_empty(device="cpu")
    assert is_large(trace_architecture(wide, torch.zeros(1, 4)))
    monkeypatch.setattr(cellwise, "SEGMENT_VALUES", 10)
    assert is_large(traced("mlp_1").architecture)


def test_cosines_in_place_are_the_cosines() -> None:
    moments = Moments(centred=True)
    moments.add(*torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(0)))
    expected = moments.cosine()
    assert torch.equal(moments.into_cosine(), expected)
    assert moments.into_cosine().data_ptr() == moments.product.data_ptr()


# -- the aligner on large networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_3", "vgg_11_bn", "attention", "gpt", "resnext"])
@pytest.mark.usefixtures("few_codes", "small_segments")
def test_cells_that_are_assigned_one_by_one_are_those_of_all_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = traced(name)
    model = Aligner(AlignerConfig(rounds=0))
    expected, scores = model.solve(network.architecture, network.state, other_state(name))
    monkeypatch.setattr(aligner, "SCORE_ENTRIES", 0)
    found, dropped = model.solve(network.architecture, network.state, other_state(name))
    again, kept = model.solve(network.architecture, network.state, other_state(name), whole=True)
    assert dropped is None
    assert scores is not None
    assert kept is not None
    assert group.same(found, expected)
    assert group.same(again, expected)


@pytest.mark.usefixtures("few_codes", "small_segments")
def test_large_networks_are_aligned_without_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligner, "SCORE_ENTRIES", 0)
    monkeypatch.setattr("graphalign.methods.gnn.SCORE_ENTRIES", 0)
    network = traced("resnet_basic")
    b, element = plant(network.spec, network.state, noise=0.0, seed=0)
    problem = Problem(network.spec, network.state, b, 0, network.architecture, network.model)
    solution = GNN()(problem)
    assert recovered(solution.permutations, element) == 1.0
    assert solution.scores is None
    assert solution.losses == ()
    assert len(GNN(steps=1)(problem).losses) == 1, "steps that are asked for are made"


def test_a_round_that_repeats_the_one_before_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = traced("mlp_3")
    calls = []
    kernel = aligner.similarity_cosine
    monkeypatch.setattr(aligner, "similarity_cosine", lambda *a: calls.append(1) or kernel(*a))
    found = {}
    for rounds in (1, 2, 9):
        calls.clear()
        model = Aligner(AlignerConfig(codes=64, rounds=rounds))
        found[rounds] = model.scores(network.architecture, network.state, network.state)
        assert len(calls) == len(network.spec.cells), "the identity is found at once"
    for name, values in found[1].items():
        assert torch.equal(found[2][name], values)
        assert torch.equal(found[9][name], values)


# -- other types -------------------------------------------------------------------------------------------------------------------


def test_converted_tensors_are_of_one_type_and_nothing_is_copied_in_vain() -> None:
    tensors = {"a": torch.ones(2, dtype=torch.bfloat16, requires_grad=True), "b": torch.ones(2), "n": torch.tensor(3)}
    converted = Converted(tensors, torch.float32)
    assert {name: tensor.dtype for name, tensor in converted.items()} == {"a": torch.float32, "b": torch.float32, "n": torch.int64}
    assert not converted["a"].requires_grad
    assert converted["b"].data_ptr() == tensors["b"].data_ptr()
    assert converted.copies
    assert not Converted({"b": tensors["b"], "n": tensors["n"]}, torch.float32).copies
    assert "a" in converted
    assert "c" not in converted
    assert len(converted) == 3


@pytest.mark.usefixtures("few_codes", "small_segments")
def test_half_precision_networks_are_compared_in_single() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)).bfloat16()
    architecture = trace_architecture(model, torch.zeros(1, 5, dtype=torch.bfloat16))
    a = all_tensors(model)
    b, element = plant(architecture.spec, a, noise=0.0, seed=0)
    large = encode_large_pair(architecture, Converted(a, torch.float32), Converted(b, torch.float32))
    small = encode_pair(architecture, {n: t.float() for n, t in a.items()}, {n: t.float() for n, t in b.items()})
    assert all(torch.allclose(large.forward[name], small.forward[name], atol=1e-5) for name in small.forward)
    assert recovered(Aligner(AlignerConfig(codes=64)).permutations(architecture, a, b), element) == 1.0
