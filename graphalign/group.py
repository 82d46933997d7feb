"""The group of a spec: identity, random elements, composition, inverse, and its action on weights by gathers.

An element is a dict: cell name -> LongTensor `perm` of shape (U,), where `perm[i]` is the unit that goes to slot i.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.spec import AxisLayout, Cell, NetworkSpec

Permutations = Mapping[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


def identity(spec: NetworkSpec) -> dict[str, Tensor]:
    """The element that moves nothing: arange(U) for every cell."""
    return {cell.name: torch.arange(cell.units) for cell in spec.cells}


def random_element(spec: NetworkSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """A uniformly random element: units shuffled inside blocks, blocks shuffled within their group."""
    element: dict[str, Tensor] = {}
    for cells in spec.groups.values():
        outer = torch.randperm(cells[0].blocks, generator=generator)
        for cell in cells:
            inner = torch.stack(
                [
                    torch.arange(cell.size) if cell.rigid else torch.randperm(cell.size, generator=generator)
                    for _ in range(cell.blocks)
                ]
            )
            element[cell.name] = join_blocks(outer, inner)
    return {cell.name: element[cell.name] for cell in spec.cells}


def join_blocks(outer: Tensor, inner: Tensor) -> Tensor:
    """The flat permutation of a two-level one.

    Args:
        outer: (B,) block that goes to block slot i.
        inner: (B, n) unit inside block `outer[i]` that goes to slot j of block slot i.

    Returns:
        (B * n,) LongTensor.
    """
    return (outer[:, None] * inner.shape[1] + inner).flatten()


def inverse(element: Permutations) -> dict[str, Tensor]:
    """The element that undoes `element`."""
    return {name: torch.argsort(perm) for name, perm in element.items()}


def same(first: Permutations, second: Permutations) -> bool:
    """Whether two elements are the same: the same cells and the same permutation of each."""
    return first.keys() == second.keys() and all(torch.equal(perm, second[name].to(perm.device)) for name, perm in first.items())


def compose(first: Permutations, then: Permutations) -> dict[str, Tensor]:
    """The element that acts as `first` and afterwards as `then`: `first[then]` under the gather convention.

    Raises:
        InvalidInput: the two name different cells or sizes.
    """
    differing = {k for k in first.keys() | then.keys() if k not in first or k not in then or len(first[k]) != len(then[k])}
    if differing:
        raise InvalidInput(
            f"permutations cannot be composed: cells {sorted(differing)} are missing or of another size in one of them; "
            "compose alignments of the same spec"
        )
    return {name: perm[then[name].to(perm.device)] for name, perm in first.items()}


def check_element(spec: NetworkSpec, element: Permutations) -> None:
    """Returns nothing if `element` belongs to the group of `spec`.

    Raises:
        InvalidInput: a missing or unknown cell, something that is no permutation, or one that tears blocks apart.
    """
    problems = list(_element_problems(spec, element))
    if problems:
        raise InvalidInput("these permutations do not belong to the spec:\n" + "\n".join(f"  - {p}" for p in problems))


def _element_problems(spec: NetworkSpec, element: Permutations) -> Iterator[str]:
    for name in element.keys() - spec.by_name.keys():
        yield f"'{name}' is no cell of the spec; it has {sorted(spec.by_name)}"
    for cells in spec.groups.values():
        outers: dict[str, tuple[int, ...]] = {}
        for cell in cells:
            perm = element.get(cell.name)
            if perm is None:
                yield f"cell '{cell.name}' has no permutation; pass arange({cell.units}) to leave it as it is"
            elif perm.dtype != torch.long or perm.shape != (cell.units,):
                yield f"cell '{cell.name}': found {perm.dtype} of shape {tuple(perm.shape)}, expected int64 ({cell.units},)"
            elif not torch.equal(perm.cpu().sort().values, torch.arange(cell.units)):
                yield f"cell '{cell.name}': not a permutation of 0..{cell.units - 1}"
            else:
                blocks = perm.cpu().reshape(cell.blocks, cell.size)
                outer = blocks // cell.size
                if not bool((outer == outer[:, :1]).all()):
                    yield f"cell '{cell.name}': units leave their block (blocks of {cell.size})"
                elif cell.rigid and not bool((blocks % cell.size == torch.arange(cell.size)).all()):
                    yield f"cell '{cell.name}': the order inside a block is fixed, only whole blocks may move"
                else:
                    outers[cell.name] = tuple(outer[:, 0].tolist())
        if len(set(outers.values())) > 1:
            yield f"cells {sorted(outers)} share their blocks but permute them differently"


def apply_to_state(spec: NetworkSpec, element: Permutations, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A new state dict with the units of every tensor moved; gathers only, on the device and dtype of each tensor.

    Tensors that carry no movable unit are returned as they are (not copied). Keys beyond the spec are kept.

    Raises:
        InvalidInput: `element` does not belong to the spec.
        SpecMismatch: a tensor of the spec is missing or has another shape.
    """
    check_element(spec, element)
    check_state(spec, state)
    return move_tensors(spec, element, state)


def move_tensors(spec: NetworkSpec, element: Permutations, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`apply_to_state` for an element and tensors that are known to fit; may be vectorised over both by `torch.func.vmap`."""
    moved = dict(state)
    for name, layouts in spec.axes_of_tensor.items():
        if name in state:
            moved[name] = permute_tensor(spec, state[name], layouts, element)
    for alias, name in spec.aliases.items():
        if alias in moved and name in moved:
            moved[alias] = moved[name]
    return moved


def permute_tensor(
    spec: NetworkSpec, tensor: Tensor, layouts: tuple[AxisLayout, ...], element: Permutations, skip: int | None = None
) -> Tensor:
    """One tensor with the units on its axes moved, optionally leaving axis `skip` as it is."""
    for layout in layouts:
        if layout.axis != skip and layout.groups == 1:
            tensor = tensor.index_select(layout.axis, gather_index(spec, layout, element).to(tensor.device, non_blocking=True))
    for layout in layouts:
        if layout.axis != skip and layout.groups > 1:
            tensor = _permute_grouped(spec, tensor, layout, element)
    return tensor


def gather_index(spec: NetworkSpec, layout: AxisLayout, element: Permutations) -> Tensor:
    """Index to gather an axis with: LongTensor of shape (layout.length,) on the CPU."""
    whole = layout.whole
    if whole is not None and whole.cell is not None and whole.repeat == 1 and len(element[whole.cell]) == whole.count:
        return element[whole.cell].to("cpu", copy=True)
    index = torch.arange(layout.length)
    for cell in layout.cells:
        positions = torch.from_numpy(layout.positions(cell))
        index = index.index_put((positions.flatten(),), positions[element[cell].cpu()].flatten())
    return index


def _permute_grouped(spec: NetworkSpec, tensor: Tensor, layout: AxisLayout, element: Permutations) -> Tensor:
    """The input axis of a grouped convolution, whose rows have already been moved.

    Rows of group slot g now hold the rows of the block that moved there, so only the order inside the block is left.
    """
    per_group = tensor.shape[layout.axis]
    inner = gather_index(spec, layout, element).reshape(layout.groups, per_group) % per_group
    rows = tensor.shape[0] // layout.groups
    index = inner.repeat_interleave(rows, dim=0).to(tensor.device, non_blocking=True)
    view = [1] * tensor.dim()
    view[0], view[layout.axis] = index.shape
    return tensor.gather(layout.axis, index.reshape(view).expand(tensor.shape))


def apply_to_module(spec: NetworkSpec, element: Permutations, module: Module) -> Module:
    """A copy of `module` whose units are moved; the original is left as it is.

    Raises:
        InvalidInput, SpecMismatch: as `apply_to_state`.
    """
    moved = apply_to_state(spec, element, all_tensors(module))
    result = copy.deepcopy(module)
    with torch.no_grad():
        for name, tensor in all_tensors(result).items():
            if name in spec.axes_of_tensor:
                tensor.copy_(moved[name])
    return result


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by qualified name (persistent or not), each tensor once, detached and not copied."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def check_state(spec: NetworkSpec, state: Mapping[str, Tensor], name: str = "the state dict") -> None:
    """Returns nothing if every tensor of the spec is in `state` with its shape.

    Raises:
        SpecMismatch: lists every missing tensor and every wrong shape.
    """
    problems = []
    for key, shape in spec.shapes.items():
        if key not in state:
            if key in spec.axes_of_tensor:
                problems.append(f"'{key}' is missing, expected shape {shape}")
        elif tuple(state[key].shape) != shape:
            problems.append(f"'{key}' has shape {tuple(state[key].shape)}, expected {shape}")
    if problems:
        raise SpecMismatch(
            f"{name} does not fit the spec:\n"
            + "\n".join(f"  - {p}" for p in problems)
            + "\nPass weights of the same architecture."
        )


def cell_blocks(cell: Cell, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Outer (B,) and inner (B, n) permutation of a flat one; the inverse of `join_blocks`."""
    blocks = perm.reshape(cell.blocks, cell.size)
    return blocks[:, 0] // cell.size, blocks % cell.size
