"""What is to be merged and how, as a file with the keys of mergekit plus `align` and `repair`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from graphalign.errors import CorruptFile, InvalidInput
from graphalign.files import AnyPath
from graphalign.methods import METHODS, configure, list_methods
from graphalign.plain_yaml import load_plain

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOP = ("models", "merge_method", "base_model", "dtype", "parameters", "align", "repair")
ALIGN = ("method", "settings", "init", "refine", "data", "loss", "arch", "input", "spec", "fixed", "seed")
REPAIR = ("data", "reset_batch_norm", "closed_form")
LARGEST = 1 << 20
"""Most bytes of a recipe."""


@dataclass(frozen=True)
class Align:
    """How units are brought into one order; the entries of `align:`.

    Attributes:
        method: one of `graphalign.list_methods()`; "naive" for networks that are aligned already.
        settings: of the method, by name.
        init: method that runs first.
        refine: methods that run afterwards.
        data: batches for methods that use data, as `graphalign.named_data.named_batches` takes them.
        loss: what labels are judged by.
        arch: code of the networks, as `graphalign.blueprints.blueprint` takes it.
        input: shape of an input, as `graphalign.example_inputs.example_of` takes it.
        spec: file of a spec, in place of code.
        fixed: operators or modules through which nothing may move.
        seed: of everything random.
    """

    method: str = "gnn"
    settings: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    refine: tuple[str, ...] = ()
    data: str | None = None
    loss: str = "cross_entropy"
    arch: str | None = None
    input: str | None = None
    spec: str | None = None
    fixed: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Repair:
    """How statistics of the merged network are mended; the entries of `repair:`.

    Attributes:
        data: training batches for REPAIR.
        reset_batch_norm: training batches on which BatchNorm statistics are estimated again.
        closed_form: REPAIR without running the merged network.
    """

    data: str | None = None
    reset_batch_norm: str | None = None
    closed_form: bool = False


@dataclass(frozen=True)
class Recipe:
    """What is to be merged and how.

    Attributes:
        models: files or folders.
        weights: one per model, of sum 1.
        base: number of the model in whose order the result is.
        dtype: of the result; that of the base model if None.
        align: how units are brought into one order.
        repair: how statistics are mended.
    """

    models: tuple[str, ...]
    weights: tuple[float, ...]
    base: int = 0
    dtype: torch.dtype | None = None
    align: Align = field(default_factory=Align)
    repair: Repair = field(default_factory=Repair)

    def __post_init__(self) -> None:
        if problems := list(_recipe_problems(self)):
            raise InvalidInput("the merge cannot be done:\n" + "\n".join(f"  - {p}" for p in problems))


def read_recipe(path: AnyPath) -> Recipe:
    """The recipe in a YAML file; paths of models, data and code in it are relative to its folder.

    Keys as in a configuration of `mergekit-pytorch`: `models` (a list of `model` and, optionally, `parameters.weight`), `merge_method`
    (linear), `base_model`, `dtype` and `parameters.normalize` (true unless said otherwise: weights are divided by their sum). `align` and
    `repair` are entries of `Align` and `Repair`; `align: false` averages as mergekit does.

    Raises:
        InvalidInput: no such file, or entries that are unknown or wrong; all of them are listed.
        CorruptFile: no YAML.
    """
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST:
            raise CorruptFile(f"{file} has {file.stat().st_size} bytes, expected a recipe of {LARGEST} at most")
        content = load_plain(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror or error}; pass the path of a merge recipe (.yaml)") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, CorruptFile):
            raise
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise CorruptFile(f"{file}{place}: {getattr(error, 'problem', None) or type(error).__name__}; expected YAML") from None
    return recipe_of(content, file.parent, str(file))


def recipe_of(content: Any, folder: Path, where: str = "the recipe") -> Recipe:
    """The recipe that plain dicts, lists, numbers and texts describe; see `read_recipe`."""
    problems: list[str] = []
    root = _section(content, TOP, "", problems)
    models, weights = _models(root.get("models"), problems)
    method = root.get("merge_method", "linear")
    if method != "linear":
        problems.append(f"merge_method: found {method!r:.40}, expected linear; for another method align first, then use mergekit-pytorch")
    normalize = _section(root.get("parameters"), ("normalize",), "parameters.", problems).get("normalize", True)
    if not isinstance(normalize, bool):
        problems.append(f"parameters.normalize: found {normalize!r:.40}, expected true or false")
    dtype = root.get("dtype")
    if dtype is not None and (not isinstance(dtype, str) or dtype not in DTYPES):
        problems.append(f"dtype: found {dtype!r:.40}, expected one of {', '.join(DTYPES)}")
    base = root.get("base_model")
    if base is not None and not isinstance(base, str):
        problems.append(f"base_model: found {base!r:.40}, expected the path of a model")
    align, repair = _align(root.get("align"), problems), _repair(root.get("repair"), problems)
    if problems:
        raise InvalidInput(f"{where}:\n" + "\n".join(f"  - {p}" for p in problems))
    if normalize and weights and (total := sum(weights)):
        weights = [weight / total for weight in weights]
    if base is not None and base not in models:
        models, weights = [base, *models], [0.0, *weights]
    place = models.index(base) if base is not None else 0
    align = replace(align, data=_located(align.data, folder), arch=_located(align.arch, folder), spec=_located(align.spec, folder))
    repair = replace(repair, data=_located(repair.data, folder), reset_batch_norm=_located(repair.reset_batch_norm, folder))
    located = tuple(str(folder / model) for model in models)
    return Recipe(located, tuple(weights), place, DTYPES[dtype] if dtype else None, align, repair)


def _located(name: str | None, folder: Path) -> str | None:
    """A name of data or code; files are those of the folder of the recipe."""
    return str(folder / name) if name and re.search(r"\.(safetensors|npz|ya?ml|json|py:[^:]*)$", name) else name


def _models(entries: Any, problems: list[str]) -> tuple[list[str], list[float]]:
    models: list[str] = []
    weights: list[float] = []
    if not isinstance(entries, list) or not entries:
        problems.append(f"models: found {entries!r:.40}, expected a list of - model: PATH")
        return [], []
    for i, entry in enumerate(entries):
        found = _section(entry, ("model", "parameters"), f"models[{i}].", problems)
        parameters = _section(found.get("parameters"), ("weight",), f"models[{i}].parameters.", problems)
        model, weight = found.get("model"), parameters.get("weight", 1.0)
        if not isinstance(model, str) or not model or "\0" in model:
            problems.append(f"models[{i}].model: found {model!r:.40}, expected a path")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or abs(weight) > 1e30 or not math.isfinite(weight):
            problems.append(f"models[{i}].parameters.weight: found {weight!r:.40}, expected one finite number")
            weight = 0.0
        models.append(str(model))
        weights.append(float(weight))
    return models, weights


def _align(entries: Any, problems: list[str]) -> Align:
    if entries is False:
        return Align(method="naive")
    found = _section(entries, ALIGN, "align.", problems)
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key in ("refine", "fixed"):
            parts = [value] if isinstance(value, str) else value
            fits, expected = isinstance(parts, list) and all(isinstance(part, str) for part in parts), "a list of texts"
            values[key] = tuple(parts) if fits else ()
        else:
            kind, expected = {"settings": (dict, "entries"), "seed": (int, "a whole number")}.get(key, (str, "a text"))
            fits = isinstance(value, kind) and not isinstance(value, bool)
            values[key] = value
        if not fits:
            problems.append(f"align.{key}: found {value!r:.40}, expected {expected}")
    return Align() if problems else Align(**values)


def _repair(entries: Any, problems: list[str]) -> Repair:
    found = _section(entries, REPAIR, "repair.", problems)
    for key, value in found.items():
        if not isinstance(value, bool if key == "closed_form" else str):
            problems.append(f"repair.{key}: found {value!r:.40}, expected {'true or false' if key == 'closed_form' else 'the name of data'}")
            return Repair()
    return Repair(**found)


def _section(entries: Any, known: tuple[str, ...], where: str, problems: list[str]) -> dict[str, Any]:
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        problems.append(f"{where.rstrip('.') or 'the recipe'}: found {entries!r:.40}, expected entries {', '.join(known)}")
        return {}
    unknown = [str(key)[:40] for key in entries if key not in known]
    problems.extend(f"{where}{key}: unknown, expected one of {', '.join(known)}" for key in unknown)
    return {key: value for key, value in entries.items() if key in known and value is not None}


def _recipe_problems(recipe: Recipe) -> Iterator[str]:
    if len(recipe.models) < 2:
        yield f"models: found {len(recipe.models)}, expected two at least"
    if len(recipe.weights) != len(recipe.models):
        yield f"weights: found {len(recipe.weights)} for {len(recipe.models)} models, expected one for each"
    elif abs(sum(recipe.weights) - 1.0) > 1e-6:
        yield f"weights: found {list(recipe.weights)} of sum {sum(recipe.weights):.6g}, expected 1; divide them by their sum"
    if not 0 <= recipe.base < max(len(recipe.models), 1):
        yield f"base: found {recipe.base}, expected the number of a model, 0 to {len(recipe.models) - 1}"
    if not 0 <= recipe.align.seed < 2**63:
        yield f"align.seed: found {recipe.align.seed}, expected a number from 0"
    for key, names in (("method", [recipe.align.method]), ("init", [recipe.align.init]), ("refine", recipe.align.refine)):
        unknown = [name for name in names if name is not None and name not in METHODS]
        if unknown:
            yield f"align.{key}: found {', '.join(unknown)}, expected one of {', '.join(list_methods())}"
        elif key == "method":
            try:
                configure(recipe.align.method, dict(recipe.align.settings))
            except (InvalidInput, TypeError) as error:
                yield f"align.settings: {error}"
    if recipe.align.spec and recipe.align.arch:
        yield "align: found spec and arch, expected one of them: a spec is for networks without code"
