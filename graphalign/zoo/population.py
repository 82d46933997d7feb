"""Generating a population: every group of every section that is not there yet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import graphalign
from graphalign.errors import InvalidInput
from graphalign.zoo.fitting import State, fit_many
from graphalign.zoo.images import Images, read_images, signal, subset
from graphalign.zoo.manifest import Group, complete, read_groups, write_group, write_manifest
from graphalign.zoo.recipe import Recipe
from graphalign.zoo.sections import Section, overlaps

TEST_IMAGES = 4000
Progress = Callable[[int, int, str], None]
"""Is told how many groups are done, how many there are, and which one comes next."""


def generate(
    sections: Sequence[Section], folder: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None, only: str | None = None,
    part: tuple[int, int] = (1, 1), device: str | None = None, progress: Progress = lambda done, total, what: None,
) -> list[Group]:  # fmt: skip
    """Trains and writes the groups of networks that are not in a folder yet, and its manifest.

    It can be stopped and run again at any time, and several processes may share a folder. A group whose file is damaged or
    missing is made again. One machine and one version of PyTorch give the same weights, byte for byte.

    Args:
        sections: all of the population: networks must belong to one alone.
        folder: made if needed.
        root: of the data sets that are not embedded, see `graphalign.data`.
        only: name of the section to generate; all of them if None.
        part: (i, n): every n-th group, from the i-th on.
        device: "cpu" or "cuda"; CUDA if there is one and None is given.
        progress: called before every group and at the end.

    Returns:
        The groups asked for, in the order of the sections.

    Raises:
        InvalidInput: sections that contradict each other or what is in the folder, an unknown section, missing data.
        CorruptFile: JSON in the folder, or data, that cannot be read.
    """
    folder = Path(folder)
    planned = [Group(s.name, s.split, design, recipe, s.seeds) for s in sections for design, recipe in s.members]
    found = read_groups(folder)
    _check(planned, found, sections, folder, only, part)
    mine = [g for g in planned if only in (None, g.section)][part[0] - 1 :: part[1]]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    sets: dict[str, Images] = {}
    made = []
    for done, group in enumerate(mine):
        progress(done, len(mine), group.name)
        if group.name not in found or not complete(folder, found[group.name]):
            if group.recipe.data not in sets:
                sets[group.recipe.data] = read_images(group.recipe.data, root)
            found[group.name] = _make(group, images_of(group.recipe, sets[group.recipe.data]), folder, device)
        made.append(found[group.name])
    progress(len(mine), len(mine), "done")
    write_manifest(folder)
    return made


def images_of(recipe: Recipe, images: Images) -> Images:
    """What a recipe trains on and is measured with, from its whole data set.

    Raises:
        InvalidInput: there are too few images.
    """
    return subset(images, recipe.images) if recipe.signal is None else signal(images, recipe.signal)


def _check(
    planned: Sequence[Group], found: dict[str, Group], sections: Sequence[Section], folder: Path, only: str | None, part: tuple[int, int],
) -> None:  # fmt: skip
    names = [s.name for s in sections]
    problems = [] if only is None or only in names else [f"only: found {only!r}, expected one of {', '.join(names)}"]
    problems += [] if 1 <= part[0] <= part[1] else [f"part: found {part[0]}/{part[1]}, expected i/n with 1 <= i <= n"]
    if problems:
        raise InvalidInput("\n".join(problems))
    expected = {g.name: g for g in planned}
    for name, group in found.items():
        plan = expected.get(name)
        if plan is None and group.section in names:
            problems.append(f"{name}: in the folder, and not in the section {group.section} of the configuration")
        elif plan is not None:
            problems += [
                f"{name}: found {field} {getattr(group, field)} in the folder, and {getattr(plan, field)} in the configuration"
                for field in ("split", "design", "recipe", "seeds") if getattr(group, field) != getattr(plan, field)
            ]  # fmt: skip
    everything = [*planned, *(g for name, g in found.items() if name not in expected and g.section not in names)]
    problems += overlaps([(g.section, g.design, g.recipe, g.seeds) for g in everything])
    if problems:
        raise InvalidInput(
            f"{folder} holds a population that the configuration contradicts:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nGenerate into another folder, name the changed sections anew, or undo the change."
        )  # fmt: skip


def _make(group: Group, images: Images, folder: Path, device: str) -> Group:
    begun = time.perf_counter()
    states = fit_many(group.design, group.recipe, images, group.seeds, device=device)
    seconds = (time.perf_counter() - begun) / len(states)
    scores = tuple(measure(group, images, state) for state in states)
    sine = group.recipe.signal is not None
    made = replace(
        group, image=images.shape, classes=images.classes, accuracies=() if sine else scores, psnr=scores if sine else (),
        test_images=0 if sine else min(TEST_IMAGES, len(images.test_x)), seconds=round(seconds, 3),
        made_with={"graphalign": graphalign.__version__, "torch": torch.__version__, "device": device},
    )  # fmt: skip
    return write_group(folder, made, states)


@torch.no_grad()
def measure(group: Group, images: Images, state: State) -> float:
    """Accuracy on the first TEST_IMAGES held-out images, or the PSNR of a signal, 10 log10(2² / mean square error), in dB."""
    network = group.design.build(images.shape, images.classes)
    network.load_state_dict(state)
    network.eval()
    batches = zip(images.test_x[:TEST_IMAGES].split(500), images.test_y[:TEST_IMAGES].split(500), strict=True)
    if group.recipe.signal is None:
        correct: int = sum(int((network(x).argmax(1) == y).sum()) for x, y in batches)
        return correct / min(TEST_IMAGES, len(images.test_x))
    error: Tensor = F.mse_loss(network(images.test_x), images.test_y)
    return round(float(10 * torch.log10(4 / error.clamp_min(1e-12))), 4)
