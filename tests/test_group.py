"""Group laws, exhaustively on tiny specs; the action on weights; and elements that do not belong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import pytest
import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.converters.trace import trace
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.spec import AxisLayout, Cell, NetworkSpec, Segment

Element = dict[str, Tensor]


def plain() -> NetworkSpec:
    """Three units, read at two positions each, and two units of another cell on the same axis."""
    return NetworkSpec(
        (Cell("a", 3), Cell("b", 2)),
        (
            AxisLayout("a.weight", 0, (Segment("a", 0, 3),)),
            AxisLayout("b.weight", 0, (Segment("b", 0, 2),)),
            AxisLayout("c.weight", 1, (Segment("a", 0, 3, 2), Segment(None, 0, 1), Segment("b", 0, 2))),
        ),
        {"a.weight": (3, 2), "b.weight": (2, 2), "c.weight": (2, 9), "other": (4,)},
    )


def heads() -> NetworkSpec:
    """Two heads of two units in q and v, which trade places together."""
    return NetworkSpec(
        (Cell("q", 2, 2, "h"), Cell("v", 2, 2, "h")),
        (
            AxisLayout("qkv.weight", 0, (Segment("q", 0, 4), Segment("q", 0, 4), Segment("v", 0, 4))),
            AxisLayout("out.weight", 1, (Segment("v", 0, 4),)),
        ),
        {"qkv.weight": (12, 3), "out.weight": (3, 4)},
    )


def rigid() -> NetworkSpec:
    """Three blocks of two units in fixed order, and one unit per block that goes with them."""
    return NetworkSpec(
        (Cell("r", 2, 3, "h", rigid=True), Cell("gate", 1, 3, "h")),
        (AxisLayout("r.weight", 0, (Segment("r", 0, 6),)), AxisLayout("gate.weight", 0, (Segment("gate", 0, 3),))),
        {"r.weight": (6, 2), "gate.weight": (3, 2)},
    )


def grouped() -> NetworkSpec:
    """The spec of a convolution in two groups, input units in blocks."""
    return trace(grouped_network(), torch.zeros(1, 3, 4, 4))


def grouped_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2)
    )


def elements(spec: NetworkSpec) -> Iterator[Element]:
    """Every element, by brute force: block orders times orders inside every block."""
    options = []
    for cells in spec.groups.values():
        found = []
        for outer in permutations(range(cells[0].blocks)):
            inner_orders = [
                [tuple(range(cell.size))] if cell.rigid else list(permutations(range(cell.size))) for cell in cells for _ in outer
            ]
            for inner in product(*inner_orders):
                element = {}
                for c, cell in enumerate(cells):
                    own = inner[c * cell.blocks : (c + 1) * cell.blocks]
                    element[cell.name] = torch.tensor([b * cell.size + j for b, order in zip(outer, own, strict=True) for j in order])
                found.append(element)
        options.append(found)
    for choice in product(*options):
        yield {name: perm for part in choice for name, perm in part.items()}


def key(element: Element) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(perm.tolist())) for name, perm in element.items()))


def weights(spec: NetworkSpec, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in spec.shapes.items()}


SPECS = {"plain": plain, "heads": heads, "rigid": rigid, "grouped": grouped}
ORDERS = {"plain": 12, "heads": 32, "rigid": 6, "grouped": 32}


def test_same_compares_cells_and_permutations() -> None:
    element = group.random_element(plain(), torch.Generator().manual_seed(0))
    assert group.same(element, {name: perm.clone() for name, perm in reversed(element.items())})
    assert not group.same(element, {**element, "a": element["a"].roll(1)})
    assert not group.same(element, {"a": element["a"]})
    assert not group.same({"a": element["a"]}, element)


@pytest.mark.parametrize("name", SPECS)
def test_group_laws_exhaustively(name: str) -> None:
    spec = SPECS[name]()
    everything = list(elements(spec))
    known = {key(e) for e in everything}
    assert len(known) == ORDERS[name]
    one = group.identity(spec)
    assert key(one) in known
    for p in everything:
        group.check_element(spec, p)
        assert key(group.compose(p, one)) == key(group.compose(one, p)) == key(p)
        assert key(group.compose(p, group.inverse(p))) == key(group.compose(group.inverse(p), p)) == key(one)
        for q in everything:
            assert key(group.compose(p, q)) in known


@pytest.mark.parametrize("name", SPECS)
def test_composition_is_associative(name: str) -> None:
    spec = SPECS[name]()
    everything = list(elements(spec))
    generator = torch.Generator().manual_seed(0)
    triples = product(everything, repeat=3) if len(everything) <= 12 else (
        [everything[i] for i in torch.randint(len(everything), (3,), generator=generator).tolist()] for _ in range(500)
    )  # fmt: skip
    for p, q, r in triples:
        assert key(group.compose(group.compose(p, q), r)) == key(group.compose(p, group.compose(q, r)))


@pytest.mark.parametrize("name", SPECS)
def test_the_action_is_a_homomorphism(name: str) -> None:
    spec = SPECS[name]()
    state = weights(spec)
    everything = list(elements(spec))
    moved = {key(p): group.apply_to_state(spec, p, state) for p in everything}
    for p in everything:
        for q in everything:
            one_step, two_steps = moved[key(group.compose(p, q))], group.apply_to_state(spec, q, moved[key(p)])
            assert all(torch.equal(one_step[t], two_steps[t]) for t in state)
    assert all(torch.equal(moved[key(group.identity(spec))][t], state[t]) for t in state)
    faithful = {tuple(torch.cat([m[t].flatten() for t in state]).tolist()) for m in moved.values()}
    assert len(faithful) == len(everything)


@pytest.mark.parametrize("name", SPECS)
def test_random_elements_reach_the_whole_group(name: str) -> None:
    spec = SPECS[name]()
    generator = torch.Generator().manual_seed(1)
    known = {key(e) for e in elements(spec)}
    assert {key(group.random_element(spec, generator)) for _ in range(60 * len(known))} == known
    again = [group.random_element(spec, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert key(again[0]) == key(again[1])


def test_the_action_is_the_gather_of_the_documentation() -> None:
    spec, state = plain(), weights(plain())
    element = {"a": torch.tensor([1, 2, 0]), "b": torch.tensor([1, 0])}
    moved = group.apply_to_state(spec, element, state)
    assert torch.equal(moved["a.weight"], state["a.weight"][[1, 2, 0]])
    assert torch.equal(moved["c.weight"], state["c.weight"][:, [2, 3, 4, 5, 0, 1, 6, 8, 7]])
    assert moved["other"] is state["other"]


def test_every_element_of_a_grouped_convolution_keeps_the_function() -> None:
    generator = torch.Generator().manual_seed(0)
    model = grouped_network().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    spec = grouped()
    for element in elements(spec):
        torch.testing.assert_close(group.apply_to_module(spec, element, model)(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept_and_inputs_are_not_modified(name: str, dtype: torch.dtype) -> None:
    spec = SPECS[name]()
    state = {k: v.to(dtype) for k, v in weights(spec).items()} | {"extra.num_batches_tracked": torch.tensor(3)}
    before = {k: v.clone() for k, v in state.items()}
    element = group.random_element(spec, torch.Generator().manual_seed(3))
    copy = {k: v.clone() for k, v in element.items()}
    moved = group.apply_to_state(spec, element, state)
    assert list(moved) == list(state)
    assert moved["extra.num_batches_tracked"] is state["extra.num_batches_tracked"]
    assert all(moved[k].dtype == state[k].dtype and torch.equal(state[k], before[k]) for k in state)
    assert key(element) == key(copy)
    back = group.apply_to_state(spec, group.inverse(element), moved)
    assert all(torch.equal(back[k], state[k]) for k in state)


def test_modules_are_copied() -> None:
    model = grouped_network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    spec = grouped()
    moved = group.apply_to_module(spec, group.random_element(spec, torch.Generator().manual_seed(5)), model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not torch.equal(moved.get_parameter("0.weight"), model.get_parameter("0.weight"))
    assert moved.get_parameter("0.weight").data_ptr() != model.get_parameter("0.weight").data_ptr()


def test_tied_tensors_stay_tied() -> None:
    spec = NetworkSpec((Cell("a", 3),), (AxisLayout("w", 0, (Segment("a", 0, 3),)),), {"w": (3,)}, aliases={"tied": "w"})
    state = {"w": torch.arange(3.0)}
    state["tied"] = state["w"]
    moved = group.apply_to_state(spec, {"a": torch.tensor([2, 0, 1])}, state)
    assert moved["tied"] is moved["w"]
    assert moved["w"].tolist() == [2.0, 0.0, 1.0]


WRONG: dict[str, tuple[str, Element, str]] = {
    "missing": ("plain", {"a": torch.arange(3)}, r"cell 'b' has no permutation; pass arange\(2\)"),
    "unknown": ("plain", {"a": torch.arange(3), "b": torch.arange(2), "z": torch.arange(2)}, r"'z' is no cell of the spec; it has \['a', 'b'\]"),
    "dtype": ("plain", {"a": torch.arange(3.0), "b": torch.arange(2)}, r"cell 'a': found torch.float32 of shape \(3,\), expected int64 \(3,\)"),
    "size": ("plain", {"a": torch.arange(4), "b": torch.arange(2)}, r"cell 'a': found torch.int64 of shape \(4,\), expected int64 \(3,\)"),
    "twice": ("plain", {"a": torch.tensor([0, 0, 1]), "b": torch.arange(2)}, "cell 'a': not a permutation of 0..2"),
    "negative": ("plain", {"a": torch.tensor([0, 1, -1]), "b": torch.arange(2)}, "cell 'a': not a permutation of 0..2"),
    "torn": ("heads", {"q": torch.tensor([0, 2, 1, 3]), "v": torch.arange(4)}, r"cell 'q': units leave their block \(blocks of 2\)"),
    "apart": ("heads", {"q": torch.tensor([2, 3, 0, 1]), "v": torch.arange(4)}, r"cells \['q', 'v'\] share their blocks but permute them differently"),
    "inside": ("rigid", {"r": torch.tensor([1, 0, 2, 3, 4, 5]), "gate": torch.arange(3)}, "the order inside a block is fixed"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_elements_that_do_not_belong_are_refused(case: str) -> None:
    name, element, message = WRONG[case]
    spec = SPECS[name]()
    with pytest.raises(InvalidInput, match=message):
        group.check_element(spec, element)
    with pytest.raises(InvalidInput, match=message):
        group.apply_to_state(spec, element, weights(spec))


def test_all_problems_of_an_element_are_listed() -> None:
    with pytest.raises(InvalidInput, match="(?s)'a'.*'b'"):
        group.check_element(plain(), {"a": torch.arange(4), "b": torch.zeros(2, dtype=torch.long)})


@pytest.mark.parametrize("other", [{"a": torch.arange(3)}, {"a": torch.arange(3), "b": torch.arange(3)}])
def test_only_elements_of_one_spec_compose(other: Element) -> None:
    for first, then in ((group.identity(plain()), other), (other, group.identity(plain()))):
        with pytest.raises(InvalidInput, match=r"cells \['b'\] are missing or of another size"):
            group.compose(first, then)


def test_states_of_other_networks_are_refused() -> None:
    spec, state = plain(), weights(plain())
    del state["a.weight"]
    state["c.weight"] = torch.zeros(2, 8)
    message = r"(?s)the state dict does not fit the spec:.*'a.weight' is missing, expected shape \(3, 2\).*'c.weight' has shape \(2, 8\), expected \(2, 9\)"
    with pytest.raises(SpecMismatch, match=message):
        group.apply_to_state(spec, group.identity(spec), state)


def test_blocks_split_and_join() -> None:
    spec = heads()
    for element in elements(spec):
        for cell in spec.cells:
            outer, inner = group.cell_blocks(cell, element[cell.name])
            assert torch.equal(group.join_blocks(outer, inner), element[cell.name])
