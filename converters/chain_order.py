"""The order of the layers of a chain: that of the state dict, or, where sorted keys have lost it, the only one that fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, permutations

from torch import Tensor

from .chain_layers import ChainLayer, ChainModule, read_modules, refuse

MAX_FAMILIES = 6


def read_chain(state: Mapping[str, Tensor]) -> tuple[ChainLayer, ...]:
    """The layers of a chain in the order in which data flows.

    State-dict order is trusted unless the keys are sorted alphabetically, as .safetensors files sort them ('10.weight' before
    '2.weight'). Then modules of one family (names equal but for their numbers) are put in the order of their numbers, and
    families are joined in the only order in which the sizes fit.

    Raises:
        InvalidInput: the tensors are no chain, or more than one order fits; every reason is listed.
    """
    modules = read_modules(state)
    keys = [key for key in state if not key.endswith("num_batches_tracked")]
    if keys == sorted(keys) and len(modules) > 1:
        return _recover(modules)
    problems = _disorder(modules)
    layers = _attach_following(modules, problems)
    refuse([*problems, *chain_problems(layers)])
    return tuple(layers)


def chain_problems(layers: Sequence[ChainLayer]) -> list[str]:
    """Why data cannot flow through the layers in this order."""
    problems = [] if layers else ["there is no weight matrix in it"]
    for previous, layer in pairwise(layers):
        here, before = layer.matrix.key("weight"), previous.matrix.key("weight")
        shape, channels = tuple(layer.weight.shape), previous.matrix.channels
        if layer.is_conv and not previous.is_conv:
            problems.append(f"'{here}' is a convolution after the linear layer '{before}'")
        elif layer.is_conv and layer.weight.dim() != previous.weight.dim():
            problems.append(f"'{here}' convolves {len(shape) - 2} dimensions, '{before}' {previous.weight.dim() - 2}")
        elif layer.is_conv and shape[1] != channels:
            grouped = (
                f" (a convolution in {channels // shape[1]} groups?)" if shape[1] < channels and channels % shape[1] == 0 else ""
            )
            problems.append(f"'{here}' of shape {shape} reads {shape[1]} channels, but '{before}' makes {channels}{grouped}")
        elif previous.is_conv and not layer.is_conv and shape[1] % channels:
            problems.append(
                f"'{here}' of shape {shape} reads {shape[1]} features, no multiple of the {channels} channels of '{before}'"
            )
        elif not previous.is_conv and shape[1] != channels:
            problems.append(f"'{here}' of shape {shape} reads {shape[1]} features, but '{before}' makes {channels}")
    return problems


def family(path: str) -> str:
    """A module path with every number replaced by '#'."""
    return re.sub(r"\d+", "#", path)


def numbers(path: str) -> tuple[int, ...]:
    """The numbers in a module path."""
    return tuple(int(n) for n in re.findall(r"\d+", path))


def _disorder(modules: Sequence[ChainModule]) -> list[str]:
    last: dict[str, ChainModule] = {}
    problems = []
    for module in modules:
        before = last.get(family(module.path))
        if before is not None and numbers(module.path) < numbers(before.path):
            problems.append(f"'{module.path}' comes after '{before.path}', so the order of the layers is uncertain")
        last[family(module.path)] = module
    return problems


def _attach_following(modules: Sequence[ChainModule], problems: list[str]) -> list[ChainLayer]:
    """Layers with the batch norm that directly follows each; what does not fit is added to `problems`."""
    layers: list[ChainLayer] = []
    own = {numbers(m.path) for m in modules if not m.is_norm and numbers(m.path)}
    for module in modules:
        if not module.is_norm:
            layers.append(ChainLayer(module, None))
        elif not layers:
            problems.append(f"the batch norm '{module.path}' comes before every layer")
        elif (reason := _misfit(layers[-1], module)) or _meant_elsewhere(layers[-1].matrix, module, own, modules):
            problems.append(
                reason or f"the batch norm '{module.path}' follows '{layers[-1].matrix.path}', but its number is another layer's"
            )
        else:
            layers[-1] = ChainLayer(layers[-1].matrix, module)
    return layers


def _misfit(layer: ChainLayer, norm: ChainModule) -> str:
    if layer.norm is not None:
        return f"the batch norms '{layer.norm.path}' and '{norm.path}' both follow '{layer.matrix.path}'"
    if layer.matrix.channels != norm.channels:
        return f"the batch norm '{norm.path}' has {norm.channels} channels, but '{layer.matrix.path}' before it makes {layer.matrix.channels}"
    return ""


def _meant_elsewhere(
    matrix: ChainModule, norm: ChainModule, own: Iterable[tuple[int, ...]], modules: Sequence[ChainModule]
) -> bool:
    """Whether names say that the norm belongs to another layer: bn1 after conv2, while conv1 has none."""
    in_family = any(not m.is_norm and family(m.path) == family(norm.path) for m in modules)
    mine = numbers(norm.path)
    return not in_family and bool(mine) and mine != numbers(matrix.path) and bool(numbers(matrix.path)) and mine in own


def _recover(modules: Sequence[ChainModule]) -> tuple[ChainLayer, ...]:
    problems: list[str] = []
    layers = {layer.matrix.path: layer for layer in _attach_by_name(modules, problems)}
    refuse(problems)
    families: dict[str, list[ChainLayer]] = {}
    for path in sorted(layers, key=lambda p: (family(p), numbers(p))):
        families.setdefault(family(path), []).append(layers[path])
    if len(families) > MAX_FAMILIES:
        _ambiguous(f"they belong to {len(families)} families of names")
    orders = [[layer for part in order for layer in part] for order in permutations(families.values())]
    fitting = [order for order in orders if not chain_problems(order)]
    if len(fitting) != 1:
        reasons = chain_problems(orders[0]) if len(orders) == 1 else []
        refuse(reasons)
        _ambiguous(f"{len(fitting) or 'no'} orders of the layers fit their sizes")
    return tuple(fitting[0])


def _ambiguous(reason: str) -> None:
    refuse([f"the keys are sorted alphabetically, as in a .safetensors file, and do not tell the order of the layers: {reason}"])


def _attach_by_name(modules: Sequence[ChainModule], problems: list[str]) -> list[ChainLayer]:
    """Layers with the batch norm that their numbers give them, whatever the order of the modules."""
    found: dict[str, ChainLayer] = {m.path: ChainLayer(m, None) for m in modules if not m.is_norm}
    for norm in (m for m in modules if m.is_norm):
        siblings = [p for p in found if family(p) == family(norm.path) and numbers(p) < numbers(norm.path)]
        if any(family(p) == family(norm.path) for p in found):
            owners = [max(siblings, key=numbers)] if siblings else []
        else:
            owners = [
                p for p, layer in found.items() if numbers(p) == numbers(norm.path) and layer.matrix.channels == norm.channels
            ]
        if len(owners) != 1:
            problems.append(
                f"the batch norm '{norm.path}' belongs to {'one of ' + str(owners) if owners else 'no layer that its name tells'}"
            )
        elif reason := _misfit(found[owners[0]], norm):
            problems.append(reason)
        else:
            found[owners[0]] = ChainLayer(found[owners[0]].matrix, norm)
    return list(found.values())


__all__ = ["chain_problems", "family", "numbers", "read_chain"]
