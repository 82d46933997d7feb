"""Merging networks on disk by a recipe: a folder with the network, the permutations, and a report on what was done."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphalign
from graphalign.alignment import Alignment
from graphalign.averaging import average
from graphalign.batch_norm import reset_statistics
from graphalign.checkpoints import MERGE_REPORT, MODEL, SHARD_BYTES, WEIGHTS, copy_beside, write_shards
from graphalign.connectivity import barrier
from graphalign.curve import Curve
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, Score, evaluate
from graphalign.example_inputs import example_of
from graphalign.files import AnyPath, check_weights
from graphalign.folders import FOLDER, REPORTS, atomic_folder, check_outputs
from graphalign.group import all_tensors
from graphalign.measures import distance
from graphalign.methods import configure
from graphalign.methods.universe import Universe
from graphalign.named_data import named_batches
from graphalign.opened import Opened, open_networks, same_types
from graphalign.recipes import Recipe, read_recipe
from graphalign.repairing import repair
from graphalign.same_function import FunctionChange, function_change
from graphalign.skeleton import with_tensors
from graphalign.spec_format import load_spec

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False, repr=False)
class MergedFiles:
    """What `merge_files` did.

    Attributes:
        recipe: what was asked for.
        opened: the networks.
        alignments: by number of the model, of all that were aligned.
        changes: how far each of them is changed by its alignment, by number; None where its code is not known.
        curves: the line from the base model to each of them, by number; empty without labelled data.
        scores: loss and accuracy by path of the model, and of the result ("merged"); empty without labelled data.
        state: the result.
        files: names of the files of the result.
    """

    recipe: Recipe
    opened: Opened
    alignments: Mapping[int, Alignment]
    changes: Mapping[int, FunctionChange | None]
    curves: Mapping[int, Curve]
    scores: Mapping[str, Score]
    state: Mapping[str, Tensor]
    files: tuple[str, ...]

    def __repr__(self) -> str:
        rows = []
        for i, (model, weight) in enumerate(zip(self.recipe.models, self.recipe.weights, strict=True)):
            alignment, curve = self.alignments.get(i), self.curves.get(i)
            how = "as it is" if alignment is None else f"aligned by {alignment.method}, {alignment.moved:.0%} of the units moved"
            rows.append(f"\n  {weight:.3g} x {model}: {how}" + ("" if curve is None else f", barrier {curve.barrier:.3g}"))
        return f"MergedFiles({len(self.state)} tensors in {', '.join(self.files)})" + "".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """The content of merge_report.json."""
        recipe = asdict(self.recipe) | {"dtype": str(self.recipe.dtype or "").removeprefix("torch.") or None}
        types = sorted({str(t.dtype).removeprefix("torch.") for t in self.state.values()})
        versions = {"graphalign": graphalign.__version__, "torch": torch.__version__, "python": platform.python_version()}
        result = {
            "files": list(self.files), "dtypes": types, "tensors": len(self.state), "entries": sum(t.numel() for t in self.state.values()),
        }  # fmt: skip
        scores = {name: {"loss": score.loss, "accuracy": score.accuracy} for name, score in self.scores.items()}
        models = [self._model(i) for i in range(len(self.recipe.models))]
        return _finite({"versions": versions, "recipe": recipe, "models": models, "result": result, "scores": scores or None})  # type: ignore[no-any-return]

    def _model(self, i: int) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.recipe.models[i], "weight": self.recipe.weights[i], "base": i == self.recipe.base}
        found["barrier"] = self.curves[i].summary() if i in self.curves else None
        if i not in self.alignments:
            return found
        alignment, change = self.alignments[i], self.changes[i]
        change_of_weights = distance(self.opened.states[self.recipe.base], self.opened.states[i], alignment)
        return found | {
            "permutations": permutations_file(i),
            "method": alignment.method,
            "seconds": alignment.seconds,
            "stages": [{"method": s.method, "seconds": s.seconds, "objective": s.objective} for s in alignment.history],
            "objective": alignment.history[-1].objective if alignment.history else None,
            "moved": alignment.moved,
            "distance": {"before": change_of_weights.before, "after": change_of_weights.after},
            "verification": None if change is None else {"largest_change": change.difference, "largest_output": change.scale},
        }


def merge_files(
    recipe: Recipe | AnyPath, out: AnyPath, *, data: Loader | None = None, report: AnyPath | None = None, device: str = "cpu", force: bool = False,
    points: int = 11, shard_bytes: int = SHARD_BYTES, progress: Progress = lambda what: None,
) -> MergedFiles:  # fmt: skip
    """Merges networks on disk into a new folder: theta = sum_i w_i pi_i(theta_i), every network in the order of the base model.

    The folder holds model.safetensors (or shards), permutations-I.safetensors for every model I that was aligned, merge_report.json and,
    of a base model in a folder, its configuration. It appears complete or not at all. Every alignment is checked first by running the
    network before and after it, in float64.

    Args:
        recipe: what is to be merged and how, or the file that says it (see `graphalign.read_recipe`).
        out: the folder.
        data: held-out batches with labels, on which barriers and the result are measured.
        report: an .html file for `graphalign.reports.merge_report`.
        device: of the computation.
        force: an output folder may hold files, and those of an earlier result are replaced.
        points: of the curves.
        shard_bytes: most bytes of tensors in one file.
        progress: told what is going on.

    Raises:
        InvalidInput: a recipe that cannot be carried out, an output that exists or is an input, or a network whose function the
            permutations change.
        SpecMismatch, UnsupportedNetwork, CorruptFile: as `graphalign.align`, and of a recipe that is no YAML.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    target, asked = Path(out), recipe.align
    progress("reading")
    own = None if asked.data is None else named_batches(asked.data, split="train")
    shown = next((name for name in (recipe.repair.data, recipe.repair.reset_batch_norm) if name is not None), None)
    example = own if own is not None else data
    example = named_batches(shown, split="train") if example is None and shown is not None else example
    opened = open_networks(
        recipe.models, arch=asked.arch, example_input=None if asked.input is None else example_of(asked.input),
        spec=None if asked.spec is None else load_spec(asked.spec), data=example, device=device,
    )  # fmt: skip
    own, data = opened.fitting(own), opened.fitting(data)
    inputs = [file for checkpoint in opened.checkpoints for file in checkpoint.files]
    inputs += [Path(name) for name in (asked.data, asked.spec, recipe.repair.data, recipe.repair.reset_batch_norm) if name and Path(name).is_file()]
    outputs = {"the output": target, **({} if report is None else {"the report": Path(report)})}
    check_outputs(outputs, inputs, force=force, endings={"the output": (FOLDER,), "the report": REPORTS})
    for checkpoint in opened.checkpoints:
        check_weights(checkpoint.state, str(checkpoint.path))
    others = [i for i, weight in enumerate(recipe.weights) if weight and i != recipe.base]
    alignments = _aligned(recipe, opened, others, own, progress)
    if report is not None and not alignments:
        raise InvalidInput("report: found networks that are averaged as they are, expected an alignment to report on; leave the report out")
    changes = {i: _checked(opened, i, alignment, progress) for i, alignment in alignments.items()}
    order = [recipe.base, *others]
    weights = [recipe.weights[i] for i in order]
    moved = {i: {key: tensor for key, tensor in opened.checkpoints[i].state.items() if key in opened.states[i]} for i in order}
    moved |= {i: alignment.apply(moved[i]) for i, alignment in alignments.items()}
    state = average([moved[i] for i in order], weights)
    if recipe.repair.data or recipe.repair.reset_batch_norm:
        progress("mending statistics")
        state = _repaired(recipe, opened, state, alignments, order)
    if recipe.dtype is not None:
        state = {key: tensor.to(recipe.dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    curves, scores = _measured(recipe, opened, state, alignments, order, data, points, progress)
    page = None
    if report is not None:
        progress("drawing the report")
        from graphalign.reports import merge_report

        page = merge_report(
            [opened.states[i] for i in order], [alignments[i] for i in others], _wide(state), weights=weights, data=data, loss=asked.loss,
            reset_batch_norm=_training(opened, recipe.repair.reset_batch_norm),
            example_input=None if opened.module is None else opened.inputs(), module=opened.module, points=points,
            names=[f"{Path(recipe.models[i]).name} ({i + 1})" for i in order], fixed=asked.fixed, seed=asked.seed,
        )  # fmt: skip
    progress("writing")
    beside = opened.checkpoints[recipe.base].folder
    with atomic_folder(target, force=force, stale=(*WEIGHTS, "permutations-*.safetensors")) as draft:
        if beside is not None:
            copy_beside(beside, draft)
        files = write_shards(opened.checkpoints[recipe.base].as_stored(state), draft, opened.checkpoints[recipe.base].metadata, shard_bytes)
        result = MergedFiles(recipe, opened, alignments, changes, curves, scores, state, tuple(files))
        for i, alignment in alignments.items():
            alignment.save(draft / permutations_file(i))
        (draft / MERGE_REPORT).write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    if page is not None and report is not None:
        page.save(report, force=force)
    return result


def _aligned(recipe: Recipe, opened: Opened, others: Sequence[int], data: Loader | None, progress: Progress) -> dict[int, Alignment]:
    asked = recipe.align
    if asked.method == "naive" and not asked.refine and asked.init is None:
        return {}
    if asked.method == "universe" and len(others) > 1:
        progress("aligning all networks")
        solver = configure("universe", dict(asked.settings))
        assert isinstance(solver, Universe)
        spec = opened.problem(recipe.base, others[0], seed=asked.seed, fixed=asked.fixed).spec
        found = solver.solve(spec, [opened.states[i] for i in (recipe.base, *others)], start=None, seed=asked.seed)
        return {i: found.pairwise(0, k) for k, i in enumerate(others, start=1)}
    alignments = {}
    for i in others:
        progress(f"aligning {recipe.models[i]}")
        alignments[i] = opened.align(
            recipe.base, i, method=asked.method, init=asked.init, refine=asked.refine, data=data, loss=asked.loss, seed=asked.seed,
            fixed=asked.fixed, **asked.settings,
        )  # fmt: skip
    return alignments


def _checked(opened: Opened, i: int, alignment: Alignment, progress: Progress) -> FunctionChange | None:
    if opened.spec is not None:
        return None
    progress(f"checking {opened.checkpoints[i].path}")
    return checked_change(opened, i, alignment)


def checked_change(opened: Opened, i: int, alignment: Alignment) -> FunctionChange:
    """How far an alignment changes the function of a network: by rounding alone.

    Raises:
        InvalidInput: it changes it.
    """
    network = opened.network(i, any_function=True)
    change = function_change(network, alignment.apply(network), opened.inputs())
    if not change.equal:
        raise InvalidInput(
            f"{opened.checkpoints[i].path}: the permutations change an output by {change.difference:.3g} (largest output {change.scale:.3g}), "
            "expected rounding alone, so nothing was written. The network is not what its weights look like: say with arch= (--arch) which "
            "code they belong to, or keep parts in place with fixed= (--fixed)"
        )
    return change


def _repaired(
    recipe: Recipe, opened: Opened, state: Mapping[str, Tensor], alignments: Mapping[int, Alignment], order: Sequence[int]
) -> dict[str, Tensor]:
    network = with_tensors(opened.network(recipe.base), _wide(state), "the merged network")
    if (loader := _training(opened, recipe.repair.data)) is not None:
        parents = [alignments[i].apply(opened.states[i]) if i in alignments else opened.states[i] for i in order if recipe.weights[i]]
        weights = [recipe.weights[i] for i in order if recipe.weights[i]]
        network = repair(network, parents, loader, weights=weights, closed_form=recipe.repair.closed_form, add_bias=False)
    if (loader := _training(opened, recipe.repair.reset_batch_norm)) is not None:
        network = reset_statistics(network, loader)
    mended: Mapping[str, Tensor] = {**all_tensors(network), **network.state_dict()}
    return same_types({key: mended.get(key, tensor) for key, tensor in state.items()}, state)


def _training(opened: Opened, name: str | None) -> Loader | None:
    return None if name is None else opened.fitting(named_batches(name, split="train"))


def _measured(
    recipe: Recipe, opened: Opened, state: Mapping[str, Tensor], alignments: Mapping[int, Alignment], order: Sequence[int],
    data: Loader | None, points: int, progress: Progress,
) -> tuple[dict[int, Curve], dict[str, Score]]:  # fmt: skip
    if data is None:
        return {}, {}
    progress("measuring barriers")
    networks: dict[int, nn.Module] = {i: opened.network(i) for i in order}
    base, reset = networks[recipe.base], _training(opened, recipe.repair.reset_batch_norm)
    curves = {
        i: barrier(base, alignments[i].apply(networks[i]) if i in alignments else networks[i], data, recipe.align.loss, points, reset)
        for i in order[1:]
    }
    named = {recipe.models[i]: network for i, network in networks.items()} | {"merged": with_tensors(base, _wide(state), "the merged network")}
    return curves, {name: evaluate(network, data, recipe.align.loss) for name, network in named.items()}


def _wide(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: t.float() if t.is_floating_point() and t.element_size() < 4 else t for key, t in state.items()}


def permutations_file(i: int) -> str:
    """The name of the file with the permutations of model `i`, counted from 0."""
    return f"permutations-{i + 1}.safetensors"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["MERGE_REPORT", "MODEL", "MergedFiles", "checked_change", "merge_files", "permutations_file"]
