"""The similarity that is kept up to date against the one computed anew."""

from __future__ import annotations

import pytest
import torch

from graphalign import group
from graphalign.spec import AxisLayout, Cell, NetworkSpec, Segment
from graphalign.tracked_similarity import TrackedSimilarity
from graphalign.weight_costs import matched_tensors, similarity
from tests.networks import FAMILIES
from tests.traced import cast, other_state, traced


def small_step(spec: NetworkSpec, names: set[str], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A 3-cycle of some units of each ordinary cell named; units of other cells move as they may."""
    step = {name: perm for name, perm in group.random_element(spec, generator).items() if name in names}
    for name in step:
        if spec.by_name[name].blocks == 1 and len(step[name]) > 3:
            chosen = torch.randperm(len(step[name]), generator=generator)[:3]
            step[name] = torch.arange(len(step[name]))
            step[name][chosen] = chosen.roll(1)
    return step


@pytest.mark.parametrize("name", FAMILIES)
def test_it_agrees_with_the_similarity_computed_anew_after_any_steps(name: str) -> None:
    """Cells are asked for at different times, so that one and several neighbours have moved, a little or altogether."""
    network, spec = traced(name), traced(name).spec
    generator = torch.Generator().manual_seed(0)
    a, b = ({n: cast(s[n], torch.float64) for n in matched_tensors(spec)} for s in (network.state, other_state(name)))
    start = group.random_element(spec, generator)
    tracked = TrackedSimilarity(spec, a, b, start)
    element = dict(start)
    groups = list(spec.groups.values())
    for turn in range(12):
        cells = groups[int(torch.randint(len(groups), (), generator=generator))]
        names = {cell.name for cell in cells}
        step = small_step(spec, names, generator) if turn % 3 else {n: p for n, p in group.random_element(spec, generator).items() if n in names}
        expected = group.apply_to_state(spec, {**group.identity(spec), **step}, {**network.state, **tracked.placed})
        assert all(torch.equal(tensor, expected[n]) for n, tensor in tracked.moved(step).items())
        tracked.move(step)
        element = group.compose(element, {**group.identity(spec), **step})
        moved = group.apply_to_state(spec, element, {**network.state, **b})
        assert all(torch.equal(tracked.element[n], element[n]) for n in element)
        assert all(torch.equal(tracked.placed[n], moved[n]) for n in b)
        for cell in spec.cells:
            if torch.rand((), generator=generator) < 0.4:
                assert torch.allclose(tracked.of(cell), similarity(spec, cell, a, moved), atol=1e-9)


def test_a_tensor_may_hold_three_cells() -> None:
    """Between two questions about the first cell the other two have moved; one of them is on another tensor, too."""
    sizes = {"x": 5, "y": 6, "z": 7}
    cells = tuple(Cell(name, size) for name, size in sizes.items())
    axes = [AxisLayout("w", axis, (Segment(name, 0, size),)) for axis, (name, size) in enumerate(sizes.items())]
    spec = NetworkSpec(cells, (*axes, AxisLayout("v", 0, (Segment("z", 0, 7),))), {"w": (5, 6, 7), "v": (7, 3)})
    generator = torch.Generator().manual_seed(0)
    a, b = ({n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in spec.shapes.items()} for _ in range(2))
    tracked = TrackedSimilarity(spec, a, b, group.identity(spec))
    for moving in (("x",), ("y", "z"), ("z",), ("x", "y", "z")):
        element = group.random_element(spec, generator)
        for cell in cells:
            tracked.of(cell)
        for name in moving:
            tracked.move({name: element[name]})
        for cell in cells:
            assert torch.allclose(tracked.of(cell), similarity(spec, cell, a, tracked.placed), atol=1e-9)


def test_the_tensors_given_are_not_modified() -> None:
    network, spec = traced("resnext"), traced("resnext").spec
    b = {n: network.state[n] for n in matched_tensors(spec)}
    before = {n: t.clone() for n, t in b.items()}
    start = group.identity(spec)
    tracked = TrackedSimilarity(spec, b, b, start)
    for cell in spec.cells:
        tracked.of(cell)
    tracked.move(group.random_element(spec, torch.Generator().manual_seed(0)))
    assert all(torch.equal(before[n], b[n]) for n in b)
    assert all(torch.equal(perm, torch.arange(len(perm))) for perm in start.values())
