"""Networks of one architecture on disk, together with what is known of their code: ready to be aligned, run and averaged."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.blueprints import blueprint, from_folder, is_transformers_folder
from graphalign.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from graphalign.converters.chain import chain_network
from graphalign.converters.chain_order import read_chain
from graphalign.converters.graph import neuron_graph
from graphalign.converters.vgg import vgg_problems
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.evaluation import Loader, Loss
from graphalign.example_inputs import mapped, randomised
from graphalign.files import AnyPath, check_weights
from graphalign.graph import NeuronGraph
from graphalign.methods import Problem, Solver, configure
from graphalign.named_data import Flattened, first_inputs
from graphalign.pairwise import check_order, prepare_pair, run_stages
from graphalign.reading import Reader
from graphalign.skeleton import with_tensors
from graphalign.spec import NetworkSpec
from graphalign.stored_names import stored_names

REMEDY = "say with arch= (--arch) which code the weights belong to"


@dataclass(frozen=True, repr=False)
class Opened:
    """Networks of one architecture.

    Attributes:
        checkpoints: what was read.
        states: tensors by key of the code, 16-bit and 8-bit floats as float32, on the device of the computation.
        module: the code, or None if it is not known.
        example_input: an input of it, or None.
        spec: what may move, where it was given in place of code.
        reader: of what has been traced.
        drawn: inputs by seed.
    """

    checkpoints: tuple[Checkpoint, ...]
    states: tuple[dict[str, Tensor], ...]
    module: nn.Module | None
    example_input: Any
    spec: NetworkSpec | None
    reader: Reader = field(default_factory=Reader, compare=False)
    drawn: dict[int, Any] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        code = "code not known" if self.module is None else f"code {type(self.module).__name__}"
        listed = "".join(f"\n  {checkpoint!r}" for checkpoint in self.checkpoints)
        return f"Opened({len(self.checkpoints)} networks, {'with a spec' if self.spec is not None else code}){listed}"

    def network(self, number: int, any_function: bool = False) -> nn.Module:
        """A network that can be run, in eval mode: its code with its weights.

        Args:
            number: of the network.
            any_function: a network of the same symmetries will do, where the code is not known.

        Raises:
            InvalidInput: its code is not known; for a bare chain of linear layers ReLU is assumed.
            SpecMismatch: the weights do not fit the code.
        """
        name = str(self.checkpoints[number].path)
        if self.module is not None:
            return with_tensors(self.module, self.states[number], name)
        if self.spec is not None:
            raise InvalidInput(f"{name} cannot be run: a spec says what may move, and not what is computed; {REMEDY}")
        layers = () if any_function else read_chain(self.states[number])
        if layers and layers[0].is_conv and vgg_problems(layers):
            raise InvalidInput(f"{name} cannot be run: weights alone do not say where a convolutional network pools; {REMEDY}")
        return chain_network(self.states[number])[0]

    def fitting(self, data: Loader | None) -> Loader | None:
        """Batches as the networks take them: those of images flattened, if all that is known is a chain of linear layers."""
        if data is None or self.module is not None or self.spec is not None or chain_network(self.states[0])[1].dim() > 2:
            return data
        return Flattened(data)

    def inputs(self, seed: int = 0) -> Any:
        """An input with random values, the same object every time.

        Raises:
            InvalidInput: none is known.
        """
        if seed not in self.drawn:
            self.drawn[seed] = self._draw(seed)
        return self.drawn[seed]

    def _draw(self, seed: int) -> Any:
        example = self.example_input
        if example is None:
            if self.module is not None:
                raise InvalidInput("found code and no input of it; pass its shape as example_input= (--input 1x3x32x32), or data")
            example = chain_network(self.states[0])[1]
        kind = next((t.dtype for t in self.states[0].values() if t.is_floating_point()), torch.float32)
        return randomised(mapped(example, lambda v: v.to(kind) if isinstance(v, Tensor) and v.is_floating_point() else v), seed)

    def graph(self, fixed: tuple[str, ...] = ()) -> NeuronGraph:
        """The neuron graph of the first network; its `spec` says what may move.

        Raises:
            As `graphalign.neuron_graph`.
        """
        return neuron_graph(self.network(0, any_function=True), self.inputs(), fixed)

    def problem(
        self, a: int = 0, b: int = 1, *, data: Loader | None = None, loss: Loss = "cross_entropy", seed: int = 0, fixed: tuple[str, ...] = ()
    ) -> Problem:
        """The problem of aligning network `b` to network `a`.

        Raises:
            As `graphalign.align`.
        """
        first, second = self.states[a], self.states[b]
        if self.spec is None:
            example = None if self.module is None else self.inputs(seed)
            return prepare_pair(first, second, example, fixed, self.module, self.reader).problem(seed=seed, data=data, loss=loss)
        for number in (a, b):
            name = str(self.checkpoints[number].path)
            group.check_state(self.spec, self.states[number], name)
            check_weights({n: t for n, t in self.states[number].items() if n in self.spec.shapes}, name)
        if first.keys() != second.keys():
            raise SpecMismatch(f"the two networks do not have the same tensors: {sorted(first.keys() ^ second.keys())[:20]} are only in one")
        return Problem(self.spec, first, second, seed, data=data, loss=loss)

    def align(
        self, a: int = 0, b: int = 1, *, method: str | Solver = "gnn", init: str | Solver | None = None, refine: Sequence[str | Solver] = (),
        data: Loader | None = None, loss: Loss = "cross_entropy", seed: int = 0, fixed: tuple[str, ...] = (), **options: Any,
    ) -> Alignment:  # fmt: skip
        """The permutations that bring the units of network `b` into the order of network `a`; arguments as of `graphalign.align`.

        Raises:
            As `graphalign.align`.
        """
        solvers = [*([] if init is None else [configure(init)]), configure(method, options), *map(configure, refine)]
        check_order(solvers)
        return run_stages(solvers, self.problem(a, b, data=data, loss=loss, seed=seed, fixed=fixed))

    def write_aligned(self, alignment: Alignment, path: AnyPath, number: int = 1, *, force: bool = False) -> list[Path]:
        """Writes a network with its units in the order of an alignment, and returns the paths of the files.

        Names, types and metadata are those of its own file; a folder gets the configuration and the tokeniser of its folder.

        Args:
            alignment: of that network.
            path: as in `graphalign.write_checkpoint`.
            number: of the network.
            force: replace what is there.

        Raises:
            SpecMismatch: an alignment of another architecture.
            InvalidInput: as `graphalign.write_checkpoint`.
        """
        own = self.checkpoints[number]
        return write_checkpoint(own.as_stored(alignment.apply(own.state)), path, own.metadata, force=force, beside=own.folder)


def open_networks(
    paths: Sequence[AnyPath], *, arch: str | None = None, example_input: Any = None, spec: NetworkSpec | None = None,
    data: Loader | None = None, device: str | torch.device = "cpu",
) -> Opened:  # fmt: skip
    """Networks of one architecture from files or folders, with their code if it can be told.

    Plain chains (MLP, CNN, VGG) need no code. A folder whose config.json names a model of transformers brings its own.

    Args:
        paths: files or folders, as `graphalign.checkpoints.read_checkpoint` takes them.
        arch: the name of their code, as `graphalign.blueprints.blueprint` takes it. Naming a factory runs it.
        example_input: an input of that code; if None, that of the code, or the first one of `data`.
        spec: what may move, in place of code.
        data: batches of inputs.
        device: of the computation.

    Raises:
        InvalidInput: files, code or a device that cannot be used.
        CorruptFile: a file is damaged, or would run code.
    """
    checkpoints = tuple(read_checkpoint(path) for path in paths)
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise InvalidInput(f"device: found {str(device)!r}, which this machine does not have, expected cpu or cuda") from None
    folder = checkpoints[0].folder
    plan = None
    if arch is not None:
        plan = blueprint(arch)
    elif spec is None and folder is not None and is_transformers_folder(folder):
        plan = from_folder(folder)
    if plan is not None:
        checkpoints = tuple(checkpoint.renamed(stored_names(plan.module, checkpoint.state.keys())) for checkpoint in checkpoints)
    if example_input is None and plan is not None:
        example_input = plan.example_input
    if example_input is None and plan is not None and data is not None:
        example_input = first_inputs(data)
    used = _used([checkpoint.state for checkpoint in checkpoints], None if plan is None else plan.module)
    states = tuple({key: _wide(tensor, place) for key, tensor in state.items()} for state in used)
    example = mapped(example_input, lambda v: v.to(place) if isinstance(v, Tensor) else v)
    module = None if plan is None else copy.deepcopy(plan.module).to(place)
    return Opened(checkpoints, states, module, example, spec)


def _used(states: Sequence[Mapping[str, Tensor]], module: nn.Module | None) -> list[Mapping[str, Tensor]]:
    """The tensors that the code knows or that all networks have: files of some versions hold constants that others leave out."""
    if module is None:
        return list(states)
    known = {name for name, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))}
    common = set.intersection(*(set(state) for state in states))
    return [{key: tensor for key, tensor in state.items() if key in known | common} or state for state in states]


def _wide(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return tensor  # refused where its values are needed
    return tensor.to(device, torch.float32) if tensor.is_floating_point() and tensor.element_size() < 4 else tensor.to(device)


def same_types(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the types of those of the same names."""
    return {key: tensor.to("cpu", like[key].dtype) if key in like else tensor.cpu() for key, tensor in state.items()}
