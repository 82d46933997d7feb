"""One large network: seconds and memory of every stage of aligning it with a shuffled copy. Runs in measuring processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.architecture import Architecture
from graphalign.bench.large_networks import build, layout, parameter_count, random_tensor
from graphalign.bench.probe import Probe, settle
from graphalign.converters.trace import trace_architecture
from graphalign.encoder import code_count
from graphalign.methods.gnn import GNN
from graphalign.methods.problem import Problem
from graphalign.pairwise import align
from graphalign.skeleton import with_tensors
from graphalign.spec import NetworkSpec
from graphalign.streamed import save_streamed

STAGES = {
    "codes": "graphalign.aligner.Aligner.codes",
    "encode": "graphalign.aligner.encode_pair graphalign.aligner.compare_cells",
    "score": "graphalign.aligner.similarity_cosine",
    "assign": "graphalign.aligner.assign_spec graphalign.aligner.assign_group",
    "steps": "graphalign.methods.gnn.GNN._refine",
}
"""Stages of a pass, and the functions in which they happen."""


def working_set(architecture: Architecture, itemsize: int = 4) -> int:
    """Bytes that aligning the largest layer by itself takes: 2 W + 4 c H + 3 U^2 entries.

    W are the entries of its largest weight, which both networks have; H those of its largest activation, of which there are forward and
    backward states of both networks for c codes; and U its units, with forward, backward and total scores.
    """
    shapes = {layer.step: torch.Size(layer.shape).numel() for layer in architecture.layers}
    spec, codes = architecture.spec, code_count(architecture)
    found = []
    for cell in spec.cells:
        weight = max(torch.Size(spec.shapes[axis.tensor]).numel() for axis in spec.axes_of_cell[cell.name])
        states = max((shapes[layer.step] for layer in architecture.layers if cell.name in layer.cells), default=0)
        found.append(2 * weight + 4 * codes * states + 3 * cell.units**2)
    return itemsize * max(found)


def measure_scale(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds and peak memory by stage, and the share of units that are back in their slots."""
    warm_up()
    network, example = build(job["kind"], job["sizes"])
    generator = torch.Generator().manual_seed(job["seed"])
    measured = from_files if job["files"] else in_memory
    facts = measured(network, example, generator, folder)
    total = sum(facts["cpu"].get(stage, 0.0) for stage in ("codes", "encode", "score", "assign", "steps"))
    peak = max(facts["peak"].get(stage, 0) for stage in ("codes", "encode", "score", "assign")) / 2**20
    print(f"{job['name']}: {facts['parameters'] / 1e6:.1f} M, pass {total:.1f} s of CPU, {peak:.0f} MiB beyond the networks, "
          f"recovered {facts['recovered']:.4f}", file=sys.stderr, flush=True)  # fmt: skip
    return facts


def warm_up() -> None:
    """Aligns tiny networks, linear and convolutional, so that libraries that load on first use do not count."""
    for kind, sizes in (("mlp", (4, 8, 2)), ("vgg", ([[8], [8]],))):
        network, example = build(kind, sizes)
        state = {name: random_tensor(name, tensor, torch.Generator().manual_seed(0)) for name, tensor in layout(network).items()}
        align(state, state, module=network, example_input=example)


def in_memory(network: nn.Module, example: Tensor, generator: torch.Generator, folder: Path) -> dict[str, Any]:
    """Both networks in float32, as modules."""
    a = {name: random_tensor(name, tensor, generator) for name, tensor in layout(network).items()}
    module = with_tensors(network, a, "A")
    probe = Probe()
    with probe.stage("trace"):
        architecture = trace_architecture(module, example)
    element = group.random_element(architecture.spec, generator)
    b = {**group.apply_to_state(architecture.spec, element, a)}
    tracing = dict(probe.peak)
    probe.base = settle()
    with probe.watching(**STAGES), probe.stage("other"):
        solution = GNN()(Problem(architecture.spec, a, b, 0, architecture, module))
    alignment = Alignment(architecture.spec, solution.permutations)
    del solution
    probe.base = settle()
    with probe.stage("apply"):
        moved = alignment.apply(b)
    equal = all(torch.equal(moved[name], tensor) for name, tensor in a.items())
    return {**_facts(probe, architecture, element, alignment, a, network), "equal": equal, "peak": {**probe.peak, **tracing}}


def from_files(network: nn.Module, example: Tensor, generator: torch.Generator, folder: Path) -> dict[str, Any]:
    """Both networks in bfloat16 files, aligned and written from there. Files count as memory while they are mapped."""
    spec = trace_architecture(_hollow(network), example).spec
    element = group.random_element(spec, generator)
    names = layout(network)
    stored = {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in names.items()}
    files = [folder / f"{name}.safetensors" for name in ("first", "second", "moved")]
    save_streamed(stored, lambda name: random_tensor(name, names[name], generator, stored[name].dtype), files[0])
    Alignment(spec, element).apply_to_file(files[0], files[1])
    probe = Probe()
    begun = settle()
    watched = {**STAGES, "trace": "graphalign.reading.trace_architecture"}
    with probe.watching(**watched), probe.stage("other"):
        alignment = align(files[0], files[1], module=network, example_input=example)
    whole = max(probe.peak.values()) + begun
    probe.base = settle()
    with probe.stage("apply"):
        alignment.apply_to_file(files[1], files[2])
    with files[0].open("rb") as first, files[2].open("rb") as moved:
        equal = all(x == moved.read(2**22) for x in iter(lambda: first.read(2**22), b""))
    architecture = trace_architecture(_hollow(network), example)
    facts = _facts(probe, architecture, element, alignment, stored, network)
    for file in files:
        os.remove(file)
    networks = facts["networks"]
    beyond = {name: max(0, peak - networks) if name != "trace" else peak for name, peak in probe.peak.items()}
    return {**facts, "equal": equal, "peak": beyond, "resident": whole}


def _hollow(network: nn.Module) -> nn.Module:
    """A network of tensors without memory of their own."""
    hollow = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in layout(network).items()}
    return with_tensors(network, hollow, "network")


def _facts(
    probe: Probe, architecture: Architecture, element: Mapping[str, Tensor], alignment: Alignment, tensors: Mapping[str, Tensor], network: nn.Module
) -> dict[str, Any]:
    spec = architecture.spec
    return {
        "parameters": parameter_count(tensors, network),
        "networks": 2 * sum(t.numel() * t.element_size() for t in tensors.values()),
        "units": sum(cell.units for cell in spec.cells),
        "widest": max(cell.units for cell in spec.cells),
        "blocks": sum(cell.blocks > 1 for cell in spec.cells),
        "codes": code_count(architecture),
        "working_set": working_set(architecture),
        "recovered": _recovered(spec, element, alignment.permutations),
        "wall": probe.wall, "cpu": probe.cpu, "peak": probe.peak,
    }  # fmt: skip


def _recovered(spec: NetworkSpec, element: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Share of units in their slots; all weights are random, so that no two units are equal."""
    back = group.compose(element, found)
    right = sum(int((back[cell.name] == torch.arange(cell.units)).sum()) for cell in spec.cells)
    return right / sum(cell.units for cell in spec.cells)
