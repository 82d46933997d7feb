"""The aligner that a run starts from: new or saved, with a prior fitted to image data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import fmean

from graphalign import data
from graphalign.aligner import Aligner
from graphalign.data.sets import IMAGES
from graphalign.prior import ImagePrior
from graphalign.training.image_prior import FittedTo, fit_prior
from graphalign.training.settings import PriorSettings, Settings
from graphalign.zoo.manifest import Group


def starting_aligner(settings: Settings, groups: Sequence[Group], root: str | os.PathLike[str] | None) -> Aligner:
    """The aligner before training.

    Args:
        settings: of the run.
        groups: to train on, whose data sets the prior is fitted to if no others are named.
        root: of data sets that are not embedded.

    Raises:
        InvalidInput, CorruptFile: a saved aligner or data that are missing or damaged.
    """
    aligner = Aligner(settings.aligner) if settings.start is None else Aligner.from_pretrained(settings.start)
    if settings.aligner is not None:
        aligner.config = settings.aligner
    if aligner.prior is None and settings.prior is not None:
        names = settings.prior.data or sorted({g.recipe.data for g in groups})
        aligner.prior = _fitted(settings.prior, names, settings.seed, root)
    return aligner


def _fitted(prior: PriorSettings, names: Sequence[str], seed: int, root: str | os.PathLike[str] | None) -> ImagePrior:
    sets = [
        FittedTo(data.images(name, "train", root).tensors[0], fmean(IMAGES[name].mean), fmean(IMAGES[name].std)) for name in names
    ]
    return fit_prior(
        sets, components=prior.components, rank=prior.rank, dimensions=prior.dimensions, most=prior.most, seed=seed
    )
