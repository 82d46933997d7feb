"""Networks read, checked and traced once, however many pairs they occur in."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.architecture import Architecture
from graphalign.converters.chain import chain_network
from graphalign.converters.trace import trace_architecture
from graphalign.errors import InvalidInput
from graphalign.files import check_weights, load_state
from graphalign.skeleton import with_tensors
from graphalign.spec import NetworkSpec
from graphalign.spec_format import require_equal

Network = nn.Module | Mapping[str, Tensor] | str | Path
HELD = 1 << 30
"""Bytes of checkpoint files that are held; those used longest ago are read again."""
PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, type)
INTERNAL = frozenset(nn.Module().__dict__)
HOOKS = tuple(name for name in INTERNAL if name.endswith("_hooks") and "forward" in name)


class Reader:
    """What is known of networks that have been read. Objects are told apart by identity, so they must not change meanwhile.

    Modules of one code and one set of sizes are traced once: those whose submodules have the same classes and the same attributes,
    and whose tensors have the same shapes. A module with forward hooks, with tensors that are neither parameters nor
    buffers, or with attributes that cannot be compared is traced by itself.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()
        self._found: dict[Hashable, Any] = {}
        self._kept: dict[int, Any] = {}

    def load(self, network: Network) -> nn.Module | Mapping[str, Tensor]:
        """A module or state dict as it is, or the state dict in a file."""
        if not isinstance(network, (str, Path)):
            return network
        key = Path(network)
        if key not in self._files:
            self._files[key] = load_state(network)
            while sum(map(_bytes, self._files.values())) > HELD and len(self._files) > 2:
                state = self._files.popitem(last=False)[1]
                self._forget(state)
        self._files.move_to_end(key)
        return self._files[key]

    def weights(self, network: nn.Module | Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
        """`weights_of` a network, the same object every time."""
        found: dict[str, Tensor] = self._once(("weights", self._id(network)), lambda: weights_of(network, name))
        return found

    def completed(self, state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """A state dict together with the buffers of its module that state dicts leave out: they belong to the code, not to the weights."""
        found: dict[str, Tensor] = self._once(("completed", self._id(state), self._id(module)), lambda: _completed(state, module))
        return found

    def filled(self, module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """`with_tensors` of a module and the weights of network A, the same object every time."""
        found: nn.Module = self._once(("filled", self._id(module), self._id(state)), lambda: with_tensors(module, state, "network A"))
        return found

    def architecture(self, module: nn.Module, example_input: Any, fixed: tuple[str, ...]) -> Architecture:
        """The traced architecture of a module."""
        key = ("architecture", self._code(module), self._id(example_input), fixed)
        found: Architecture = self._once(key, lambda: trace_architecture(module, example_input, fixed=fixed))
        return found

    def chain(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, Tensor]:
        """A network for a bare state dict, whose tensors are those of the first one of these names and shapes, and an example input."""
        key = ("chain", tuple((name, t.shape, t.dtype, t.device) for name, t in state.items()), _ties(state))
        found: tuple[nn.Module, Tensor] = self._once(key, lambda: chain_network(state))
        return found

    def view(self, module: nn.Module) -> nn.Module:
        """A copy in eval mode, for calls with other tensors, of the first module of this code and these integer tensors.

        It shares the parameters and buffers of that module, whose own mode is left as it is.
        """
        whole = tuple((n, t.cpu().contiguous().numpy().tobytes()) for n, t in module.named_buffers() if not t.is_floating_point() and t.dim())
        found: nn.Module = self._once(("view", self._code(module), whole), lambda: _view(module))
        return found

    def check(self, spec: NetworkSpec, state: Mapping[str, Tensor], name: str) -> None:
        """Returns nothing if a state dict has the tensors of a spec and they are finite weights.

        Raises:
            SpecMismatch, InvalidInput: it has not, or they are not.
        """

        def check() -> None:
            group.check_state(spec, state, f"network {name}")
            check_weights({n: t for n, t in state.items() if n in spec.shapes}, f"network {name}")

        self._once(("check", self._id(spec), self._id(state)), check)

    def compare(self, first: NetworkSpec, second: NetworkSpec) -> None:
        """Returns nothing if two specs are equal.

        Raises:
            SpecMismatch: lists the differences.
        """
        if first is not second:
            self._once(("compare", self._id(first), self._id(second)), lambda: require_equal(first, second))

    def _once(self, key: Hashable, make: Any) -> Any:
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]

    def _id(self, value: Any) -> int:
        self._kept[id(value)] = value  # as long as it is held no other object has its identity
        return id(value)

    def _forget(self, state: dict[str, Tensor]) -> None:
        gone: set[int] = set()
        more = {id(state)}
        while more - gone:  # what was made of it, and what was made of that
            gone |= more
            more = {id(made) for key, made in self._found.items() if made is not None and gone.intersection(_parts(key))}
        self._found = {key: made for key, made in self._found.items() if not gone.intersection(_parts(key))}
        self._kept = {key: value for key, value in self._kept.items() if key not in gone}

    def _code(self, module: nn.Module) -> Hashable:
        code: Hashable = self._once(("code", self._id(module)), lambda: self._signature(module))
        return code

    def _signature(self, module: nn.Module) -> Hashable:
        parts: list[Hashable] = []
        for path, part in module.named_modules(remove_duplicate=False):
            own = {name: value for name, value in vars(part).items() if name not in INTERNAL}
            known = [_plain(value) for value in own.values()]
            if any(getattr(part, name, None) for name in HOOKS) or not all(ok for ok, _ in known):
                return self._id(module)
            unsaved = tuple(sorted(part._non_persistent_buffers_set))
            parts.append((path, type(part), tuple(own), tuple(value for _, value in known), unsaved, tuple(part._parameters), tuple(part._buffers)))
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        described = tuple((name, t.shape, t.dtype, t.device, t.layout) for name, t in tensors)
        return (tuple(parts), described, _ties(dict(tensors)))


def weights_of(network: Any, name: str) -> dict[str, Tensor]:
    """Parameters and buffers of a module, or a state dict as it is.

    Raises:
        InvalidInput: neither a module nor a mapping of names to tensors.
    """
    if isinstance(network, nn.Module):
        return group.all_tensors(network)
    if isinstance(network, Mapping) and network and all(isinstance(v, Tensor) for v in network.values()):
        return {str(k): v.detach() for k, v in network.items()}
    found = "an empty mapping" if isinstance(network, Mapping) and not network else type(network).__name__
    raise InvalidInput(
        f"network {name}: found {found}, expected a torch.nn.Module, a state dict of tensors, or a checkpoint path"
    )


def _completed(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict().keys()
    unsaved = {name: tensor for name, tensor in group.all_tensors(module).items() if name not in saved}
    return {**unsaved, **state} if unsaved else state


def _view(module: nn.Module) -> nn.Module:
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared).eval()


def _plain(value: Any) -> tuple[bool, Hashable]:
    """Whether a value can be compared, and something equal for equal values only."""
    if isinstance(value, PLAIN):
        return True, (type(value), repr(value) if isinstance(value, float) else value)  # NaN differs from itself
    if type(value) in (tuple, list, set, frozenset, dict):
        items = [item for pair in value.items() for item in pair] if type(value) is dict else list(value)
        if type(value) in (set, frozenset):
            items.sort(key=repr)
        parts = [_plain(item) for item in items]
        return all(ok for ok, _ in parts), (type(value), tuple(part for _, part in parts))
    functions = (types.FunctionType, types.BuiltinFunctionType)
    if isinstance(value, functions) and isinstance(getattr(value, "__self__", None), (type(None), types.ModuleType, type)):
        return True, (type(value), id(value))
    return False, None


def _ties(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """For every tensor the number of the first that shares its memory."""
    first: dict[Any, int] = {}
    places = ((t.device, t.untyped_storage().data_ptr() or id(t)) if t.layout == torch.strided else id(t) for t in tensors.values())
    return tuple(first.setdefault(place, index) for index, place in enumerate(places))


def _bytes(state: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in state.values())


def _parts(key: Hashable) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)
