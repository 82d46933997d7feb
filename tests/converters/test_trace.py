"""What the tracer finds: the function stays under every element and changes when one tie is broken; the cells are as expected."""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign import Inputs, InvalidInput, NetworkSpec, UnsupportedNetwork, group, trace, verify
from graphalign.converters.trace import trace_architecture
from graphalign.group import permute_tensor
from graphalign.spec_format import spec_to_dict
from tests.networks import FAMILIES
from tests.networks_attention import GPT
from tests.networks_unusual import StructuredOutput, TwoInputs
from tests.traced import Runner, build, cast, traced

SAME = 1e-10
CHANGED = 1e-6

# A bias of the keys adds the same number to all scores of a query, which the softmax removes: it moves without any effect.
WITHOUT_EFFECT = {("attention_cross", "key.bias", 0), ("attention_cross_no_bias", "key.bias", 0)}


@pytest.mark.parametrize("name", FAMILIES)
def test_permuting_everything_keeps_the_function(name: str) -> None:
    network = traced(name)
    assert verify(network.model, network.example, spec=network.spec, samples=20) <= SAME


@pytest.mark.parametrize("name", FAMILIES)
def test_breaking_any_single_tie_changes_the_function(name: str) -> None:
    spec, runner = traced(name).spec, Runner(traced(name))
    generator = torch.Generator().manual_seed(5)
    unnoticed = set()
    for layout in spec.axes:
        for _ in range(8):  # a random element may leave a small cell as it is
            element = group.random_element(spec, generator)
            moved = group.apply_to_state(spec, element, runner.state)
            tensor = runner.state[layout.tensor]
            moved[layout.tensor] = permute_tensor(spec, tensor, spec.axes_of_tensor[layout.tensor], element, skip=layout.axis)
            if runner.difference(moved) > CHANGED:
                break
        else:
            unnoticed.add((name, layout.tensor, layout.axis))
    assert unnoticed == {case for case in WITHOUT_EFFECT if case[0] == name}


@pytest.mark.parametrize("name", ["mlp_2", "cnn_flatten_bn", "resnet_basic", "densenet", "resnext", "attention", "gpt", "glu"])
def test_verify_sees_a_tie_that_is_missing_from_the_spec(name: str) -> None:
    network = traced(name)
    for i in range(0, len(network.spec.axes), 3):
        axes = network.spec.axes[:i] + network.spec.axes[i + 1 :]
        broken = dataclasses.replace(network.spec, axes=axes, rescalings=())
        assert verify(network.model, network.example, spec=broken, samples=8) > CHANGED, network.spec.axes[i]


def _places(spec: NetworkSpec) -> dict[tuple[str, int], dict[tuple[str, int], Tensor]]:
    """(cell, unit) -> (tensor, axis) -> indices."""
    found: dict[tuple[str, int], dict[tuple[str, int], Tensor]] = defaultdict(dict)
    for layout in spec.axes:
        for cell in layout.cells:
            for unit, indices in enumerate(torch.from_numpy(layout.positions(cell))):
                found[(cell, unit)][(layout.tensor, layout.axis)] = indices
    return found


def _exchangeable(spec: NetworkSpec, first: tuple[str, int], second: tuple[str, int]) -> bool:
    cell = spec.by_name[first[0]]
    return first[0] == second[0] and not cell.rigid and first[1] // cell.size == second[1] // cell.size


@pytest.mark.parametrize("name", ["resnet_basic_group_norm", "resnext", "shufflenet", "attention", "gpt", "llama"])
def test_units_of_different_cells_or_blocks_cannot_be_swapped(name: str) -> None:
    """Pairs that lie on the same axes, so that the swap is possible, and that the spec keeps apart.

    On the input axis of a grouped convolution an index means another channel in every group, so it is left as it is.
    """
    spec, runner = traced(name).spec, Runner(traced(name))
    places = _places(spec)
    grouped = {(layout.tensor, layout.axis) for layout in spec.axes if layout.groups > 1}
    pairs = [
        (a, b) for a, b in combinations(places, 2)
        if not _exchangeable(spec, a, b)
        and {k: len(v) for k, v in places[a].items()} == {k: len(v) for k, v in places[b].items()}
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    tried = 0
    for i in torch.randperm(len(pairs), generator=generator)[:40].tolist():
        a, b = ({k: v for k, v in places[unit].items() if k not in grouped} for unit in pairs[i])
        if _is_dead(runner, a) and _is_dead(runner, b):
            continue
        tried += 1
        swapped = dict(runner.state)
        for tensor, axis in a:
            index = torch.arange(swapped[tensor].shape[axis])
            index[a[(tensor, axis)]], index[b[(tensor, axis)]] = b[(tensor, axis)], a[(tensor, axis)]
            swapped[tensor] = swapped[tensor].index_select(axis, index)
        assert runner.difference(swapped) > CHANGED, pairs[i]
    assert tried >= 10


def _is_dead(runner: Runner, unit: dict[tuple[str, int], Tensor]) -> bool:
    """Whether the network computes the same without the unit: a ReLU that never opens on this example."""
    without = dict(runner.state)
    for tensor, axis in unit:
        if not tensor.endswith("running_var"):
            without[tensor] = without[tensor].index_fill(axis, unit[(tensor, axis)], 0.0)
    return runner.difference(without) <= CHANGED


# -- the cells of networks counted by hand: (units in a block, blocks), rigid cells with a third entry ------------------------

HEADS = [(4, 2), (4, 2)]
CELLS: dict[str, list[tuple[Any, ...]]] = {
    "mlp_3": [(8, 1), (7, 1), (6, 1)],
    "mlp_in_place_residual": [(7, 1), (6, 1)],
    "cnn_flatten": [(6, 1), (8, 1), (9, 1)],
    "conv_autoencoder": [(6, 1), (8, 1), (5, 1), (8, 1), (3, 2), (2, 2)],
    "vgg_16": [(n, 1) for n in (4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32)],
    "resnet_basic": [(6, 1), (6, 1), (6, 1), (12, 1), (12, 1), (12, 1)],
    "resnet_basic_group_norm": [(3, 2), (3, 2), (3, 2), (6, 2), (6, 2), (6, 2)],
    "resnet_bottleneck": [(n, 1) for n in (4, 4, 4, 16, 4, 4, 8, 8, 32, 8, 8)],
    "resnet_pre_activation": [(6, 1), (6, 1), (8, 1), (8, 1)],
    "resnext": [(6, 1), (2, 3), (2, 3), (24, 1), (2, 3), (2, 3), (4, 3), (4, 3), (48, 1)],
    "densenet": [(n, 1) for n in (6, 6, 3, 6, 3, 7, 6, 3, 6, 3)],
    "mobilenet_hardswish": [(n, 1) for n in (6, 12, 4, 12, 4, 8, 16, 4)],
    "shufflenet": [(4, 1), (4, 1), (4, 1)],
    "unet_transposed": [(6, 1), (8, 1), (5, 1), (7, 1)],
    "attention": [(8, 1), *HEADS],
    "encoder_layer_gelu": [(8, 1), *HEADS, (9, 1)],
    "decoder_layer": [(8, 1), *HEADS, *HEADS, (9, 1)],
    "vit": [(8, 1), *HEADS, (9, 1), *HEADS, (9, 1)],
    "gpt": [(8, 1), *HEADS, (9, 1), *HEADS, (9, 1)],
    "llama": [(16, 1), (2, 2, "rigid"), (4, 2), (9, 1), (2, 2, "rigid"), (4, 2), (9, 1)],  # rotary frequencies stay apart
    "swiglu": [(7, 1)],
    "glu": [(7, 1)],
    "shared_linear": [(7, 1)],
    "tied_autoencoder": [(7, 1), (4, 1)],
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_are_those_counted_by_hand(name: str) -> None:
    found = [(c.size, c.blocks, "rigid") if c.rigid else (c.size, c.blocks) for c in traced(name).spec.cells]
    assert found == CELLS[name]


@pytest.mark.parametrize(
    ("name", "groups"),
    [("attention", [1, 2]), ("gpt", [1, 2, 1, 2, 1]), ("llama", [1, 2, 1, 2, 1]), ("resnext", [1, 2, 1, 2, 2, 1]),
     ("conv_autoencoder", [1, 1, 1, 1, 2]), ("resnet_basic_group_norm", [1] * 6)],
)  # fmt: skip
def test_heads_and_convolution_groups_move_as_one(name: str, groups: list[int]) -> None:
    assert [len(cells) for cells in traced(name).spec.groups.values()] == groups


def test_queries_and_keys_are_one_cell_and_values_another() -> None:
    spec = traced("attention").spec
    (segments,) = [layout.segments for layout in spec.axes if (layout.tensor, layout.axis) == ("attention.in_proj_weight", 0)]
    assert [(s.cell, s.count) for s in segments] == [("attention[0:8]", 8), ("attention[0:8]", 8), ("attention[16:24]", 8)]
    assert {c.group for c in spec.cells[1:]} == {"attention[0:8]"}


def test_tied_embedding_and_head_are_one_tensor() -> None:
    spec = traced("gpt").spec
    assert spec.aliases == {"head.weight": "token.weight"}
    assert [c.size for c in traced("gpt_untied").spec.cells] == [c.size for c in spec.cells]


# -- what the spec does not depend on -----------------------------------------------------------------------------------------

VARIED = ["mlp_batch_norm", "cnn_flatten_bn", "dropout_identity", "resnet_basic", "attention", "llama", "encoder_layer_relu"]


@pytest.mark.parametrize("name", VARIED)
def test_training_mode_and_frozen_weights_make_no_difference(name: str) -> None:
    model, example = build(name)
    model.train().requires_grad_(False)
    assert trace(model, example) == traced(name).spec
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", VARIED)
def test_the_dtype_makes_no_difference(name: str, dtype: torch.dtype) -> None:
    model, example = build(name)
    assert trace(model.to(dtype), cast(example, dtype)) == traced(name).spec


def test_modules_and_functions_give_the_same_spec_up_to_names() -> None:
    def anonymous(spec: NetworkSpec) -> Any:
        names = {cell.name: f"cell {i}" for i, cell in enumerate(spec.cells)}
        shapes = sorted(spec.shapes.values())
        axes = [
            (spec.shapes[x.tensor], x.axis, [(names.get(s.cell or ""), s.start, s.count, s.repeat) for s in x.segments])
            for x in spec.axes
        ]
        return [(c.size, c.blocks, c.activation, c.scale_free, c.sign_free) for c in spec.cells], shapes, sorted(axes, key=str)

    assert anonymous(traced("mlp_functional").spec) == anonymous(traced("mlp_2").spec)


@pytest.mark.parametrize("name", ["cnn_flatten_bn", "gpt", "weight_norm", "mlp_in_place_residual"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, example = build(name)
    model.train()
    list(model.modules())[-1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    identities = [id(p) for p in model.parameters()]
    trace(model, example)
    verify(model, example)
    assert [module.training for module in model.modules()] == modes
    assert [id(p) for p in model.parameters()] == identities
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is not None and bool((p.grad == 0.25).all()) and p.requires_grad for p in model.parameters())


def test_tracing_draws_no_random_numbers() -> None:
    model, example = build("dropout_identity")
    before = torch.get_rng_state()
    trace(model, example)
    assert torch.equal(before, torch.get_rng_state())


def test_tracing_twice_gives_equal_specs() -> None:
    for name in ("attention", "shufflenet", "llama"):
        model, example = build(name, seed=7)
        assert spec_to_dict(trace(model, example)) == spec_to_dict(traced(name).spec)


# -- inputs and outputs ---------------------------------------------------------------------------------------------------------


def test_arguments_may_come_as_a_tensor_a_tuple_a_dict_or_inputs() -> None:
    torch.manual_seed(0)
    model, x, context = TwoInputs(), torch.randn(2, 8), torch.randn(2, 6)
    forms = [(x, context), {"x": x, "context": context}, {"context": context, "x": x}, Inputs(x, context), Inputs(x, context=context)]
    specs = [trace(model, form) for form in forms]
    assert all(spec == specs[0] for spec in specs)
    assert all(verify(model, form) <= SAME for form in forms)
    single = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    assert trace(single, x[:, :5]) == trace(single, (x[:, :5],)) == trace(single, Inputs(x[:, :5]))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.side = nn.Linear(8, 7), nn.Linear(7, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.body(x))
        return self.head(h), [{"side": self.side(h)}, None, 3]


@pytest.mark.parametrize("model", [StructuredOutput("dict"), StructuredOutput("dataclass"), Nested()], ids=["dict", "dataclass", "nested"])
def test_every_tensor_of_a_structured_output_counts(model: nn.Module) -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    spec = trace(model, x)
    assert [(c.name, c.units) for c in spec.cells] == [("body", 7)]
    assert {(a.tensor, a.axis) for a in spec.axes} == {("body.weight", 0), ("body.bias", 0), ("head.weight", 1), ("side.weight", 1)}
    assert verify(model, x, spec=spec, samples=5) <= SAME
    for tensor in ("head.weight", "side.weight"):
        broken = dataclasses.replace(spec, axes=tuple(a for a in spec.axes if a.tensor != tensor), rescalings=())
        assert verify(model, x, spec=broken, samples=5) > CHANGED, tensor


def test_units_that_are_an_output_stay_in_place() -> None:
    class Exposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = torch.relu(self.first(x))
            return self.third(torch.relu(self.second(hidden))), hidden

    spec = trace(Exposed(), torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    assert [c.name for c in spec.cells] == ["second"]
    assert ("first", 4, "network output") in [(f.name, f.count, f.reason) for f in spec.fixed]


# -- what the architecture records ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_2", "cnn_flatten_bn", "resnext", "gpt"])
def test_weight_blocks_join_the_units_of_their_axes(name: str) -> None:
    architecture = traced(name).architecture
    assert architecture.blocks
    total = sum(c.units for c in architecture.spec.cells)
    for block in architecture.blocks:
        shape = architecture.spec.shapes[block.tensor]
        assert len(block.target) in (shape[block.out_axis], shape[block.out_axis] * block.geometry.get("groups", 1))
        assert int(block.target.max()) < total
        assert int(block.target.min()) >= -1
    units = torch.cat([torch.cat([b.source, b.target]) for b in architecture.blocks]).unique()
    assert set(range(total)) <= set(units.tolist())


@pytest.mark.parametrize("name", ["mlp_2", "resnet_basic", "attention"])
def test_layers_form_a_connected_graph_from_input_to_output(name: str) -> None:
    layers = traced(name).architecture.layers
    seen: set[str] = set()
    for layer in layers:
        assert set(layer.inputs) <= seen, layer
        assert layer.op == "input" or layer.inputs, layer
        seen.add(layer.step)
    assert layers[0].op == "input"
    assert layers[-1].op == "output"


# -- bad input ----------------------------------------------------------------------------------------------------------------------


def test_something_that_is_no_module_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"found dict, expected a torch.nn.Module; for a state dict see converters.chain_spec"):
        trace({}, torch.zeros(1))


def test_an_example_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"Sequential does not run on the example input of shape\(s\) \[\(2, 4\)\]: .*mat1 and mat2"):
        trace(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)), torch.zeros(2, 4))


def test_a_network_without_hidden_units_says_why() -> None:
    with pytest.raises(UnsupportedNetwork, match=r"Linear has no hidden unit that may move .*network output.*(?s:.)*at least one hidden layer"):
        trace(nn.Linear(5, 3), torch.zeros(2, 5))


def test_fixed_module_keeps_its_units_in_place() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    spec = trace(model, torch.zeros(2, 5), fixed=["3"])
    assert [c.name for c in spec.cells] == ["0"]
    assert any(f.name == "2" and f.count == 6 and "fixed=" in f.reason for f in spec.fixed)


def test_half_of_a_tied_network_is_exported_with_one_name() -> None:
    torch.manual_seed(0)
    architecture = trace_architecture(GPT(), torch.randint(11, (2, 5)))
    assert "head.weight" not in architecture.tensors.values()
